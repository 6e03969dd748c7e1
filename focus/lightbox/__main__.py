"""`python -m focus.lightbox`: the command has the name of this room, so Python looks for it here."""

import runpy

runpy.run_module("focus.commands.lightbox", run_name="__main__", alter_sys=True)
