"""The second kind of scenes: small coloured signs of many forms in a large image. A sign carries a label, and the label a number, both off
centre: the number (B1), the label (B2) and the sign (B3) lie in different places.

A crop that is larger than the budget of its tokens is shrunk, so a large crop has its price here. Like a scene, a street is a pure function
of (spec, split, index), and training and evaluation share no photograph, no font and no seed.
"""

from focus.data.streets.spec import DIFFICULTY, FONTS, StreetSign, StreetSpec, street_spec
from focus.data.streets.street import Street, Streets

__all__ = ["DIFFICULTY", "FONTS", "Street", "StreetSign", "StreetSpec", "Streets", "street_spec"]
