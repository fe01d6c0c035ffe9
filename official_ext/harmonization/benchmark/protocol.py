"""An experiment of the benchmark, and what it hands back for a model."""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal as journal_lib
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
  curves: Mapping[str, Any] | None = None
  examples: Examples | None = None


class Experiment(abc.ABC):
  """A protocol with its data and options, that any model can go through.

  Attributes:
    name: in tables and file names.
    title: for people.
    version: of the protocol; another one gives other scores.
  """

  name: str
  title: str
  version = 1

  @abc.abstractmethod
  def settings(self) -> dict[str, Any]:
    """What a reader of the report must know of data and options."""

  @abc.abstractmethod
  def identity(self, digests: identity.Digests) -> dict[str, Any]:
    """What the scores depend on, but for the model and versions.

    Args:
      digests: of files' contents.

    Returns:
      The parts `protocol`, `data` and `options` of an identity.
    """

  @abc.abstractmethod
  def run(
    self,
    adapter,
    progress: Callable[[int], Any],
    journal: journal_lib.Journal | None = None,
  ) -> Result:
    """Scores a model.

    Args:
      adapter: of the model, an `adapters.base.Adapter`.
      progress: called with the number of images of every batch.
      journal: of this result, whose items are not computed again; None to
        keep none.

    Returns:
      The scores, a row per image or trial, and what belongs to them.
    """

  def present(self, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Shows stored scores by today's settings that only affect how they look.

    Args:
      stored: of each score by its name, as `scores.Score.to_json`.

    Returns:
      The same, or with another ceiling.
    """
    return dict(stored)
