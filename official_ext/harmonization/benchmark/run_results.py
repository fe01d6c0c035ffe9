# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What a run of the benchmark found: models, comparisons, and the report."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import typing_extensions

from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import subgroups as subgroups_lib
from official_ext.harmonization.evaluation import scores as scores_lib


@dataclasses.dataclass(frozen=True)
class Failure:
  """A model that could not be opened or scored.

  Attributes:
    name: of the model.
    spec: of the model.
    stage: the protocol, or that the model could not be opened.
    error: type and message.
    traceback: path of the file that holds it.
  """

  name: str
  spec: str
  stage: str
  error: str
  traceback: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Difference:
  """A difference on the same images.

  Attributes:
    protocol: its name.
    difference: of the two rows.
    low: lower end of its 95 % interval.
    high: its upper end.
    p: of the paired test over images that the difference is 0.
    p_holm: the same, adjusted for the number of tests (Holm).
    n: number of images.
    variance: of the difference; None if it is unknown.
  """

  protocol: str
  difference: float
  low: float
  high: float
  p: float
  p_holm: float
  n: int
  variance: repeated_runs.Variance | None = None

  @classmethod
  def of(
    cls, estimate: repeated_runs.Estimate, **names: Any
  ) -> typing_extensions.Self:
    """Makes a difference of its estimate, not yet adjusted, and its names."""
    return cls(
      difference=estimate.value,
      low=estimate.low,
      high=estimate.high,
      p=estimate.p,
      p_holm=math.nan,
      n=estimate.n,
      variance=estimate.variance,
      **names,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(_Difference):
  """A network against a row that a network must beat, by `specific`.

  P-values are adjusted for all comparisons of the protocol.

  Attributes:
    model: name of the network that the difference is of.
    control: name of the control that is subtracted, or `random-<model>` for its
      random twins.
  """

  model: str
  control: str

  @property
  def beats(self) -> bool:
    """Whether the network is better than the control, at .05."""
    return self.difference > 0 and self.p < 0.05

  @property
  def is_below(self) -> bool:
    """Whether it is worse, at .05 after the adjustment."""
    return self.difference < 0 and self.p_holm < 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairComparison(_Difference):
  """A score of one network against that of another, second minus first.

  P-values are adjusted for all pairs that the score is compared for.

  Attributes:
    score: its name.
    first: name of the network that the difference starts from, the baseline of
      a pair of twins.
    second: name of the other network.
    over_seeds: whether the interval and the test include the variance between
      seeds. Otherwise they hold for these runs only.
  """

  score: str
  first: str
  second: str
  over_seeds: bool = False

  @property
  def is_significant(self) -> bool:
    """Whether the networks differ, at .05 after the adjustment."""
    return self.p_holm < 0.05


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
  """A rank correlation over networks.

  Attributes:
    value: NaN if it is undefined, as where all networks are equal.
    low: lower end of the 95 % interval over images (percentile bootstrap over
      groups); NaN if it is undefined.
    high: its upper end.
  """

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Two explainers, compared by how they rank networks.

  Attributes:
    protocol: name of the protocol without an explainer.
    first: name of one explainer.
    second: of the other.
    networks: names of the networks, best first by the first explainer.
    order: the same, best first by the second.
    images: number of images that all networks have under both explainers.
    groups: number of groups of these.
    spearman: Spearman's rank correlation.
    kendall: Kendall's tau-b.
    same_order: part of the resamples in which both explainers have the same
      order; NaN with one group.
  """

  protocol: str
  first: str
  second: str
  networks: Sequence[str]
  order: Sequence[str]
  images: int
  groups: int
  spearman: RankCorrelation
  kendall: RankCorrelation
  same_order: float

  @property
  def order_changes(self) -> bool:
    """Whether the order of the networks depends on the explainer."""
    return list(self.networks) != list(self.order)


@dataclasses.dataclass(frozen=True)
class RunResults:
  """What a run of the benchmark found.

  Attributes:
    models: with a result of at least one of the run's protocols.
    failures: of this run.
    notes: sentences on what was found in the folder.
    comparisons: of networks with controls.
    subgroups: specific alignment of parts of the images.
    agreements: of pairs of explainers.
  """

  models: Sequence[results.ModelResults]
  failures: Sequence[Failure] = ()
  notes: Sequence[str] = ()
  comparisons: Sequence[Comparison] = ()
  subgroups: Sequence[subgroups_lib.Subgroup] = ()
  agreements: Sequence[Agreement] = ()


@dataclasses.dataclass(frozen=True)
class DataCard:
  """What is known of the data of a protocol, see `data_cards`.

  Attributes:
    origin: where the data come from, in words.
    licence: what their source says, in words.
    sha256: digests of their contents by what they are of, see
      `identity.Digests`.
    images: their number; None if unknown.
    maps: number of human maps that are not constant; None without maps.
    classes: number of classes that occur; None if unknown.
    class_names: names of classes by number, where they are recorded.
    counts: other numbers of what the data contain, by name.
  """

  origin: str
  licence: str
  sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
  images: int | None = None
  maps: int | None = None
  classes: int | None = None
  class_names: Mapping[int, str] = dataclasses.field(default_factory=dict)
  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MeasuredProtocol:
  """A protocol that a report covers.

  Attributes:
    title: of its section.
    settings: of its data and options.
    card: of its data, or None.
  """

  title: str
  settings: Mapping[str, Any]
  card: DataCard | None = None


@dataclasses.dataclass(frozen=True)
class Report:
  """All that is in the report.

  Attributes:
    created: local time in ISO 8601.
    command: that was run.
    versions: of packages, by name.
    limit: the number of records that were scored of each dataset; None if all.
    protocols: that were measured, by name, in the order of the report.
    not_measured: why a protocol was not measured, by name.
    twins: names of baselines and of their harmonized twins.
    models: with their results.
    failures: of this run.
    notes: sentences on what was found in the folder.
    comparisons: of networks with controls.
    pairs: comparisons of networks with each other.
    subgroups: specific alignment of parts of the images.
    agreements: of pairs of explainers.
  """

  created: str
  command: str
  versions: Mapping[str, str]
  limit: int | None
  protocols: Mapping[str, MeasuredProtocol]
  not_measured: Mapping[str, str]
  twins: Sequence[tuple[str, str]]
  models: Sequence[results.ModelResults]
  failures: Sequence[Failure] = ()
  notes: Sequence[str] = ()
  comparisons: Sequence[Comparison] = ()
  pairs: Sequence[PairComparison] = ()
  subgroups: Sequence[subgroups_lib.Subgroup] = ()
  agreements: Sequence[Agreement] = ()

  def to_json(self) -> dict[str, Any]:
    """Returns the content of results.json, see docs/benchmark.md."""
    return {
      'format': results.FORMAT,
      'created': self.created,
      'command': self.command,
      'versions': dict(self.versions),
      'limit': self.limit,
      'experiments': {
        name: dataclasses.asdict(protocol)
        for name, protocol in self.protocols.items()
      },
      'left_out': dict(self.not_measured),
      'twins': [list(pair) for pair in self.twins],
      'models': [_with_all_explainers(m.to_json()) for m in self.models],
      'failures': [
        {
          'name': failure.name,
          'spec': failure.spec,
          'experiment': failure.stage,
          'error': failure.error,
          'traceback': failure.traceback,
        }
        for failure in self.failures
      ],
      'notes': list(self.notes),
      'comparisons': [
        scores_lib.json_safe(
          {**dataclasses.asdict(c), 'beats': c.beats, 'is_below': c.is_below}
        )
        for c in self.comparisons
      ],
      'pairs': [
        scores_lib.json_safe(
          {**dataclasses.asdict(c), 'is_significant': c.is_significant}
        )
        for c in self.pairs
      ],
      'subgroups': [
        scores_lib.json_safe(dataclasses.asdict(s)) for s in self.subgroups
      ],
      'explainer_agreement': [
        scores_lib.json_safe(
          {**dataclasses.asdict(a), 'order_changes': a.order_changes}
        )
        for a in self.agreements
      ],
    }


def _with_all_explainers(content: dict[str, Any]) -> dict[str, Any]:
  """Adds the explainers of variants to those of their protocol."""
  found = content['experiments']
  for name in found:
    family = protocol_names.family(name)
    if family != name and family in found:
      explained = found[family].setdefault('explainers', {})
      for explainer, scores in found[name].get('explainers', {}).items():
        explained.setdefault(explainer, scores)
  return content
