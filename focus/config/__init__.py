"""The settings of every command: composed by Hydra from conf/, typed by pydantic, checked before anything is loaded.

`command_line.start` prepares a command line, `validated` gives a command its typed settings, `identity` says which
keys matter for what. Importing this package loads neither PyTorch nor anything else that is slow.
"""

from focus.config.checks import EMBEDDED_VIEW, cautions
from focus.config.command_line import guarded, start
from focus.config.messages import ConfigError, raise_all
from focus.config.output import alone, writable
from focus.config.policy_settings import setting_of_policy
from focus.config.schema import SCHEMAS
from focus.config.section_checks import DRAWN, SECRET
from focus.config.validate import problems_of, validated
from focus.runtime.paths import CONF

__all__ = [
    "CONF",
    "DRAWN",
    "EMBEDDED_VIEW",
    "SCHEMAS",
    "SECRET",
    "ConfigError",
    "alone",
    "cautions",
    "guarded",
    "problems_of",
    "raise_all",
    "setting_of_policy",
    "start",
    "validated",
    "writable",
]
