"""Files of calibrations: reading, writing, and finding the one that was made for a model's weights.

They are kept in the user's cache folder under the weights' fingerprint. One of a small chat model ships.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.errors import InputError
from laconic.files import write_text
from laconic.prune.calibration import CalibratedRow, Calibration
from laconic.selectors import cache_folder

FORMAT = "laconic.calibration/1"
SHIPPED = Path(__file__).parent / "assets" / "calibrations"
DEFAULT = SHIPPED / "default.json"
"""What is taken for a model that has none of its own."""


def place_of(fingerprint: str) -> Path:
    """Where `laconic calibrate` keeps the calibration of these weights unless it is told a file."""
    return cache_folder().parent / "calibrations" / f"{fingerprint}.json"


def find_calibration(fingerprint: str | None) -> Path | None:
    """The file of the calibration made for these weights (`laconic.fingerprint.fingerprint`): the user's own, else one that
    ships; None for none."""
    if fingerprint is None:
        return None
    for place in (place_of(fingerprint), SHIPPED / f"{fingerprint}.json"):
        if place.is_file():
            return place
    return None


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write one; what stood there is replaced whole."""
    checks.instance("calibration", calibration, Calibration, "a Calibration, as laconic calibrate makes them")
    about: dict[str, Any] = {"format": FORMAT, **asdict(calibration)}
    write_text(Path(checks.path("path", path)).expanduser(), json.dumps(about, indent=1) + "\n")


def read_calibration(path: str | Path) -> Calibration:
    """The calibration in a file. Raises InputError for a file that isn't there, was cut off, or holds none."""
    place = Path(checks.path("path", path)).expanduser()
    made = "expected one that laconic calibrate wrote"
    if not place.is_file():
        raise InputError(f"there is no calibration file {place}; {made}")
    try:
        about = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{place} is no whole calibration ({error}); {made}: make it again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{place} is no calibration of the format {FORMAT}; {made}")
    known = {field.name for field in fields(Calibration)}
    try:
        rows = tuple(CalibratedRow(**row) for row in about["rows"])
        return Calibration(**{name: value for name, value in about.items() if name in known} | {"rows": rows})
    except (KeyError, TypeError) as error:
        raise InputError(f"{place} lacks what a calibration has ({error}); {made}: make it again") from error
    except InputError as error:
        raise InputError(f"{place} holds no calibration that can be used: {error}") from error
