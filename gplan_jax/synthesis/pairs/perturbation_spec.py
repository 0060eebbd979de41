"""The perturbation spec: what may be changed in a context and how far, declared in a YAML file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import Field, model_validator

from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError

SHIPPED_SPEC = Path(__file__).with_name("perturbations.yaml")


class Perturbation(Config):
    """One way to change a context.

    Attributes:
        weight: how often it comes first, relative to the other perturbations of the spec.
    """

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)


class HoursShift(Perturbation):
    """Moves the current time by ``least`` to ``most`` hours, in steps of a second."""

    least: float = Field(gt=0, allow_inf_nan=False)
    most: float = Field(gt=0, le=7 * 24)

    @model_validator(mode="after")
    def _ordered(self) -> HoursShift:
        if self.least > self.most:
            raise ValueError(f"least ({self.least:g}) must not be above most ({self.most:g})")
        return self


class DayShift(Perturbation):
    """Moves the date to a day of the other kind, weekday or weekend, at most ``days`` away."""

    days: int = Field(ge=1, le=31)


class HomeMove(Perturbation):
    """Moves the user home; ``category`` is what home is where no row tells."""

    category: str | None = Field(None, min_length=1)


class OrderMove(Perturbation):
    """Moves the user to the order's place.

    Attributes:
        categories: type of order -> what kind of place its place is where no row tells.
    """

    categories: dict[str, str] = Field(default_factory=dict)


class PerturbationSpec(Config):
    """All perturbations by name; one that is None is not used.

    Attributes:
        hours_later, hours_earlier: the current time moves.
        weekday_weekend: the date moves, from a weekday to a weekend or back.
        holiday_flag: the flag is turned over; the date stays.
        other_district, other_city: the user is somewhere else.
        at_home, at_order_place: the user is at a place that the row names.
        holidays: holidays beside those that the rows of the file say.
    """

    hours_later: HoursShift | None = None
    hours_earlier: HoursShift | None = None
    weekday_weekend: DayShift | None = None
    holiday_flag: Perturbation | None = None
    other_district: Perturbation | None = None
    other_city: Perturbation | None = None
    at_home: HomeMove | None = None
    at_order_place: OrderMove | None = None
    holidays: list[date] = Field(default_factory=list)

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight of the perturbations in use, in the order of their declaration."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {n: part.weight for n, part in sections.items() if isinstance(part, Perturbation)}


def load_spec(path: str | Path | None = None) -> PerturbationSpec:
    """Reads a perturbation spec; the shipped one without ``path``.

    Raises:
        GplanError: the file is missing or no YAML, a key is unknown (near ones are listed), a
            value is wrong, or no perturbation is declared.
    """
    path = path or SHIPPED_SPEC
    spec = load_config(PerturbationSpec, path)
    if not spec.weights:
        known = [name for name in PerturbationSpec.model_fields if name != "holidays"]
        raise GplanError(f"{path} declares no perturbation; known ones: {', '.join(known)}.")
    return spec
