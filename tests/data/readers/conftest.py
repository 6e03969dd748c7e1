"""The fixture `read` of the readers' tests."""

from tests.support.reading import read

__all__ = ["read"]
