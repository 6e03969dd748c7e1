"""The embedded data: scenes with signs whose text is unreadable from afar and whose boxes are
exact.

A scene is a pure function of (spec, split, index). It is laid out at once and drawn when its pixels
are needed. The question names one sign by what is visible from afar (colour, shape, place, relation
to another sign). The answer is the sign's text, which is a few native pixels tall. B1 is the ink of
the text, B2 the sign, B3 the board around it.

Training and evaluation share no photograph, no font, no word and no seed (`SPLITS`).
"""

from focus.data.scenes.scene import Scene, Scenes
from focus.data.scenes.spec import COLOURS, DIFFICULTY, SHAPES, SPLITS, SceneSpec, Sign, scene_spec

__all__ = ["COLOURS", "DIFFICULTY", "SHAPES", "SPLITS", "Scene", "SceneSpec", "Scenes", "Sign", "scene_spec"]
