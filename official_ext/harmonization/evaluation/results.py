"""What an experiment of the benchmark hands back for a model."""

import dataclasses
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from official_ext.harmonization.evaluation import scores


@dataclasses.dataclass(frozen=True)
class Examples:
  """A few images with maps, for pictures.

  Attributes:
    images: uint8 (n, H, W, 3), as shown to people.
    human: float (n, H, W), the human maps.
    model: float (n, H, W), the model's maps.
  """
  images: np.ndarray
  human: np.ndarray
  model: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
  """The outcome of one experiment for one model.

  Attributes:
    scores: what was measured.
    rows: of the table of images or trials.
    warnings: sentences that a reader of the scores must know.
    curves: data of an accuracy curve, or None.
    examples: for pictures, or None.
  """
  scores: Sequence[scores.Score]
  rows: Sequence[Mapping[str, Any]]
  warnings: Sequence[str] = ()
  curves: Optional[Mapping[str, Any]] = None
  examples: Optional[Examples] = None
