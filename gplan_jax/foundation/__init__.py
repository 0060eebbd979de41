"""Used by all rooms: errors that name the mend, atomic files, typed configs, progress."""

from gplan_jax.foundation.errors import GplanError, RowError
