# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Typed results, from a protocol's measurement to the report, and their JSON.

A `Measurement` is what a protocol returns for a model. It is stored as a
`StoredResult` of the model's `ModelResults`, one file per model, and
`run_results.Report` collects the models. JSON is read only here
(`ModelResults.from_json`).

Files carry a format version. Format 1 had none; its fields are the same.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.evaluation import scores as scores_lib

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Examples:
  """The first images of the table with their maps, for panels.

  Attributes:
    images: uint8 (n, H, W, 3), as people saw them.
    human: float (n, H, W), the human maps.
    model: float (n, H, W), the model's maps.
  """

  images: np.ndarray
  human: np.ndarray
  model: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageFacts:
  """What the table of images tells of an image; None where it does not.

  Attributes:
    label: its class.
    prediction: the class that the model predicted.
    own: the rank correlation with the human map of this image.
    outward: the mean rank correlation with the human maps of other images.
  """

  label: int | None = None
  prediction: int | None = None
  own: float | None = None
  outward: float | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
  """Accuracy at each level of an experiment, of a model or of people.

  Numbers are NaN where they are undefined. Results of earlier versions have
  only the first four fields.

  Attributes:
    levels: L of them.
    percents: (L,), the percent of the image that is revealed.
    accuracy: (L,), in [0, 1].
    standard_error: (L,).
    n: (L,), the number of responses.
    d_prime: (L,), the sensitivity.
    threshold: percent at which the fitted function is halfway up.
    threshold_interval: its lower and upper end.
    logistic: parameters of the fitted function.
  """

  levels: Sequence[int]
  percents: Sequence[float]
  accuracy: Sequence[float]
  standard_error: Sequence[float]
  n: Sequence[float] | None = None
  d_prime: Sequence[float] | None = None
  threshold: float | None = None
  threshold_interval: Sequence[float] | None = None
  logistic: Mapping[str, Any] | None = None

  @property
  def problem(self) -> str:
    """Why the fitted function has no threshold, or ''."""
    return (self.logistic or {}).get('problem') or ''

  def to_json(self) -> dict[str, Any]:
    """Returns the fields that are known in strict JSON's types."""
    return scores_lib.json_safe(_known(self))

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Curve':
    """Reads what `to_json` or `accuracy_curves.Curve.to_json` returned.

    Args:
      content: decoded JSON.

    Returns:
      The curve; null becomes NaN.

    Raises:
      ValueError: a field is missing or unknown.
    """
    try:
      return cls(
        **{
          name: value if name == 'logistic' else _with_nan(value)
          for name, value in _mapping(content, 'a curve').items()
        }
      )
    except TypeError as e:
      raise ValueError(f'a curve is incomplete: {e}') from None


@dataclasses.dataclass(frozen=True)
class Smoothed:
  """Alignment of maps that were blurred.

  Attributes:
    width: the standard deviation of the Gaussian, in pixels at 224.
    own: alignment with the right human maps.
    shuffled: alignment with those of other images.
    specific: the difference.
  """

  width: float
  own: scores_lib.Score
  shuffled: scores_lib.Score
  specific: scores_lib.Score


@dataclasses.dataclass(frozen=True)
class Explained:
  """Alignment of the maps of one explainer.

  Attributes:
    scores: by name, of the maps that models are compared by.
    by_width: the same for other widths of the blur.
    seconds_per_image: that the maps took, the median over batches; None if it
      is unknown.
  """

  scores: Mapping[str, scores_lib.Score]
  by_width: Sequence[Smoothed]
  seconds_per_image: float | None = None

  def to_json(self) -> dict[str, Any]:
    """Returns the fields that are known in strict JSON's types."""
    seconds = self.seconds_per_image
    return {
      **({} if seconds is None else {'seconds_per_image': seconds}),
      'scores': {name: s.to_json() for name, s in self.scores.items()},
      'by_width': [
        {
          'width': found.width,
          **{name: getattr(found, name).to_json() for name in _SMOOTHED},
        }
        for found in self.by_width
      ],
    }

  @classmethod
  def from_json(cls, content: Any) -> 'Explained':
    """Reads what `to_json` returned; raises ValueError if it is incomplete."""
    content = _mapping(content, 'an explainer')
    read = scores_lib.Score.from_json
    return cls(
      {
        name: read(score)
        for name, score in _field(content, 'scores', dict).items()
      },
      [
        Smoothed(
          _mapping(found, 'a width').get('width', math.nan),
          **{name: read(found.get(name)) for name in _SMOOTHED},
        )
        for found in _field(content, 'by_width', list)
      ],
      content.get('seconds_per_image'),
    )


_SMOOTHED = ('own', 'shuffled', 'specific')


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What a protocol measured on one model.

  Attributes:
    scores: what was measured.
    rows: of the table, one per image or trial.
    warnings: sentences that a reader of the scores must know.
    curves: by observer, 'model' or 'human'; None if the protocol has none.
    examples: for panels, or None.
    explainers: alignment by explainer; None if the protocol has none.
  """

  scores: Sequence[scores_lib.Score]
  rows: Sequence[Mapping[str, Any]]
  warnings: Sequence[str] = ()
  curves: Mapping[str, Curve] | None = None
  examples: Examples | None = None
  explainers: Mapping[str, Explained] | None = None


@dataclasses.dataclass(frozen=True)
class StoredResult:
  """A measurement as it is stored in a model's file.

  Attributes:
    scores: by name.
    settings: of the protocol, for the report.
    table: path of the table of images or trials, from the output folder.
    examples: path of the examples, or None.
    warnings: sentences that a reader of the scores must know.
    curves: by observer, or None.
    explainers: alignment by explainer, or None.
    created: local time in ISO 8601.
    seconds: that the measurement took; None if unknown.
    identity: what the scores depend on, see `identity`; None for results of
      versions that did not record it.
    contents: digests of the table and the examples.
    digest: of all that is stored; it seals the result.
    origin: a phrase on where the result comes from; '' if it was measured by
      this command.
  """

  scores: Mapping[str, scores_lib.Score]
  settings: Mapping[str, Any]
  table: str
  examples: str | None = None
  warnings: Sequence[str] = ()
  curves: Mapping[str, Curve] | None = None
  explainers: Mapping[str, Explained] | None = None
  created: str = ''
  seconds: float | None = None
  identity: Mapping[str, Any] | None = None
  contents: Mapping[str, str] | None = None
  digest: str | None = None
  origin: str = ''

  @property
  def network(self) -> Mapping[str, Any] | None:
    """The part of the identity that describes the network, if recorded."""
    return (self.identity or {}).get('network')

  def to_json(self) -> dict[str, Any]:
    """Returns the fields that are known in strict JSON's types."""
    content = {
      **_known(self),
      'scores': {name: s.to_json() for name, s in self.scores.items()},
      'curves': self.curves
      and {name: curve.to_json() for name, curve in self.curves.items()},
      'examples': self.examples,
    }
    if self.explainers:
      content['explainers'] = {
        name: found.to_json() for name, found in self.explainers.items()
      }
    del content['origin']
    if self.origin:
      content['earlier'] = self.origin
    return scores_lib.json_safe(content)

  @classmethod
  def from_json(cls, content: Any, created: str) -> 'StoredResult':
    """Reads what `to_json` returned.

    Args:
      content: decoded JSON.
      created: the time to assume for a result that does not record it.

    Returns:
      The result.

    Raises:
      ValueError: a field is missing or has another type.
    """
    content = _mapping(content, 'a result')
    curves = content.get('curves')
    return cls(
      scores={
        name: scores_lib.Score.from_json(score)
        for name, score in _field(content, 'scores', dict).items()
      },
      settings=_field(content, 'settings', dict),
      table=_field(content, 'table', str),
      warnings=_field(content, 'warnings', list),
      curves=curves
      and {name: Curve.from_json(c) for name, c in curves.items() if c},
      explainers={
        name: Explained.from_json(found)
        for name, found in (content.get('explainers') or {}).items()
      }
      or None,
      created=content.get('created', created),
      origin=content.get('earlier', ''),
      **{
        name: content.get(name)
        for name in ('examples', 'seconds', 'identity', 'contents', 'digest')
      },
    )


@dataclasses.dataclass(frozen=True)
class AdapterFacts:
  """How a network is used.

  Attributes:
    input_size: height and width in pixels.
    num_classes: the number of its outputs.
    preprocessing: of the images, in one line.
  """

  input_size: Sequence[int]
  num_classes: int
  preprocessing: str

  def to_json(self) -> dict[str, Any]:
    """Returns the fields in strict JSON's types."""
    return scores_lib.json_safe(dataclasses.asdict(self))


@dataclasses.dataclass
class ModelResults:
  """A model and its results.

  Attributes:
    name: in tables and file names.
    settings: the model's `spec`, and size and time of its `files`.
    adapter: how the network is used.
    results: by protocol.
  """

  name: str
  settings: Mapping[str, Any]
  adapter: AdapterFacts
  results: dict[str, StoredResult] = dataclasses.field(default_factory=dict)

  @property
  def spec(self) -> str:
    """The SPEC that the model was named by."""
    return self.settings['spec']

  @property
  def is_control(self) -> bool:
    """Whether it is a control, which is not a network."""
    return self.spec.startswith('control:')

  @property
  def twin_of(self) -> str | None:
    """Name of the network that this one is a random twin of, or None."""
    return self.settings.get('random_twin_of')

  @property
  def size_of(self) -> str | None:
    """Name of the network that this is at another input size, or None."""
    return self.settings.get('input_size_of')

  @property
  def group(self) -> str | None:
    """Name of the network that this is one of several runs of, or None."""
    return self.settings.get('group')

  @property
  def runs(self) -> Sequence[str]:
    """Names of the runs that it is the mean of; empty for a single model."""
    return self.settings.get('runs', ())

  @property
  def is_companion(self) -> bool:
    """Whether it is a control, a random twin, or at another input size."""
    return (
      self.is_control or self.twin_of is not None or self.size_of is not None
    )

  @property
  def is_network(self) -> bool:
    """Whether it is one of the networks to be compared with the others.

    Several runs of one network are represented by their mean.
    """
    return not self.is_companion and self.group is None

  def warnings_of(self, protocol: str) -> list[str]:
    """Returns the warnings of a result, without those of its first explainer.

    Args:
      protocol: its name; a variant also warns of the network's accuracy.
    """
    family = protocol_names.family(protocol)
    first = None if family == protocol else self.results.get(family)
    known = first.warnings if first else ()
    return [w for w in self.results[protocol].warnings if w not in known]

  def origins(self) -> dict[str, str]:
    """Returns where results come from that were not measured, by protocol.

    A control has the same result under every explainer.
    """
    return {
      name: result.origin
      for name, result in self.results.items()
      if result.origin
      and not (self.is_control and protocol_names.is_variant(name))
    }

  def to_json(self) -> dict[str, Any]:
    """Returns the content of the model's file."""
    return {
      'format': FORMAT,
      'name': self.name,
      'settings': scores_lib.json_safe(self.settings),
      'adapter': self.adapter.to_json(),
      'experiments': {name: r.to_json() for name, r in self.results.items()},
    }

  @classmethod
  def from_json(
    cls, content: Any, created: str, expected: str | None = None
  ) -> 'ModelResults':
    """Reads the content of a model's file, of format 1 or 2.

    Args:
      content: decoded JSON.
      created: the time to assume for results that do not record it.
      expected: the model's name; None if any will do.

    Returns:
      The model's results.

    Raises:
      ValueError: the content has another format or is of another model, or a
        field is missing or has another type.
    """
    content = _mapping(content, 'it')
    version = content.get('format', 1)
    if version not in range(1, FORMAT + 1):
      raise ValueError(
        f'it has format {version!r}, which this version cannot read'
      )
    name = _field(content, 'name', str)
    if expected is not None and name != expected:
      raise ValueError(f'it is of {name!r}')
    settings = _field(content, 'settings', dict)
    results = _field(content, 'experiments', dict)
    _field(settings, 'spec', str)
    adapter = _mapping(content.get('adapter'), '"adapter"')
    return cls(
      name,
      settings,
      AdapterFacts(
        _field(adapter, 'input_size', list),
        _field(adapter, 'num_classes', int),
        _field(adapter, 'preprocessing', str),
      ),
      {key: StoredResult.from_json(r, created) for key, r in results.items()},
    )


def _known(instance: Any) -> dict[str, Any]:
  """Returns a dataclass's fields that are not None."""
  fields = {
    f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)
  }
  return {name: value for name, value in fields.items() if value is not None}


def _with_nan(value: Any) -> Any:
  """Replaces null by NaN, also in lists."""
  if isinstance(value, list):
    return [_with_nan(v) for v in value]
  return math.nan if value is None else value


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
  if not isinstance(value, dict):
    raise ValueError(f'{what} is not an object')
  return value


def _field(content: Mapping[str, Any], name: str, kind: type) -> Any:
  """Returns a field of decoded JSON; raises where it has another type."""
  value = content.get(name)
  if not isinstance(value, kind):
    raise ValueError(f'"{name}" is {value!r}')
  return value
