"""Salted-hash buckets: which side of a split, or which arm of an experiment, a unit belongs to.

A bucket depends on the salt and the unit alone: no table has to be kept, every server finds the
same one, and two salts give independent buckets.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Self

import pydantic
from pydantic import Field

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError

# A letter first: an experiment never shares its salt with a split of rows, whose salt is a number.
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
Arm = Annotated[str, Field(min_length=1, max_length=64)]
ROUNDING = 1e-9


def bucket(salt: str, unit: str) -> float:
    """A uniform number in [0, 1): the first 64 bits of ``sha256("salt:unit")``, divided by 2^64.

    ``salt`` names the split and has no colon, or two pairs could hash alike.
    """
    digest = hashlib.sha256(f"{salt}:{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Experiment(Config):
    """The arms of an A/B test and their shares of users."""

    name: Name
    # Of the hash; the name where none is given. Experiments with different salts divide users
    # independently; a new salt draws all users anew.
    salt: Name | None = None
    # Arm -> share of all users, in the order of their intervals on [0, 1); the rest takes no part.
    # Changing shares moves just the users between an old and a new boundary.
    arms: dict[Arm, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=2)
    control: str  # The arm that others are compared with.

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.control not in self.arms:
            raise ValueError(f"control {self.control!r} is none of the arms {', '.join(self.arms)}")
        if sum(self.arms.values()) > 1 + ROUNDING:
            raise ValueError(f"the arms' shares add up to {sum(self.arms.values()):g}; at most 1")
        return self

    def assign(self, user: str) -> str | None:
        """The arm of ``user``, None for one who takes no part; GplanError where the id is empty."""
        if not user:
            # All of them would share an arm.
            raise GplanError(f"Experiment {self.name}: a user without an id can't have an arm.")
        place, boundary = bucket(self.salt or self.name, user), 0.0
        for arm, share in self.arms.items():
            boundary += share
            if place < boundary:
                return arm
        # Shares like 3 x 1/3 may add up to a hair less than the 1 they mean.
        return arm if boundary >= 1 - ROUNDING else None

    def pseudonym(self, user: str) -> str:
        """A user's id in logs: 16 hexadecimal digits of ``sha256("salt:user:user")``.

        It can be computed from id and salt, so it links exposures to clicks; it is not anonymous.
        """
        salted = f"{self.salt or self.name}:user:{user}"
        return hashlib.sha256(salted.encode()).hexdigest()[:16]
