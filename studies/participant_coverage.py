# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Simulates intervals of normalized alignment over crossed participants.

  python -m studies.participant_coverage \
      --participants_output=docs/results/participant_coverage.json

Participants' maps are those of `ceiling_coverage`, but each participant sees
several images: with noise of their own strength, and with a map of their own
that they add to all images, such as a bias to one side. Two questions:

  participants: the images are fixed and participants are drawn. How often does
    the jackknife over participants contain the value for many participants?
    Also with the human maps of the network's alignment made again without each
    participant, which needs the clicks behind these maps.
  images: both are drawn. How often does the interval over images, which takes
    images to be independent, contain the value for many of both? And how often
    does the interval whose half-width is the root of the sum of the squares of
    both half-widths ("both")?

Experiments are saved as they finish; run the command again to continue.
"""

import dataclasses

from absl import app
from absl import flags
import numpy as np

from official_ext.harmonization.benchmark import normalization
from official_ext.harmonization.benchmark import participant_agreement
from studies import ceiling_coverage
from studies import coverage

_EXPERIMENTS = flags.DEFINE_integer(
  'participants_experiments', 300, 'Per setting.'
)
_OUTPUT = flags.DEFINE_string(
  'participants_output',
  'docs/results/participant_coverage.json',
  'JSON file for the results.',
)

_PER_SAVE = 20
# Draws of participants, and of images too, for the true values.
_POPULATION = 400
_RATIOS = ('controlled', 'controlled_person')


@dataclasses.dataclass(frozen=True)
class Setting(ceiling_coverage.Setting):
  """What is simulated.

  Attributes:
    users: participants in total; each image is seen by `participants` of them.
    bias: standard deviation of a participant's own map.
  """

  network_noise: float = 1.0
  spread: float = 0.5
  splits: int = 10
  users: int = 30
  bias: float = 0.5


SETTINGS = {
  '30 participants': Setting(),
  '15 participants': Setting(users=15),
  '100 participants': Setting(users=100),
  'no bias of their own': Setting(bias=0.0),
  'strong bias': Setting(bias=1.0),
}


@dataclasses.dataclass(frozen=True)
class Images:
  """Images and a network's maps of them.

  Attributes:
    signal: (n, pixels), what all participants see.
    network: (n, pixels), ranked maps.
  """

  signal: np.ndarray
  network: np.ndarray


@dataclasses.dataclass(frozen=True)
class People:
  """Participants' maps.

  Attributes:
    user: int (n, P), who they are.
    maps: (n, P, pixels).
    order: (n, splits, P), random orders that halves are made of.
  """

  user: np.ndarray
  maps: np.ndarray
  order: np.ndarray


def images(setting: Setting, rng: np.random.Generator) -> Images:
  """Draws images."""
  common = setting.common * np.random.default_rng(1).normal(size=setting.pixels)
  signal = common + rng.normal(size=(setting.images, setting.pixels))
  noise = setting.network_noise * rng.normal(size=signal.shape)
  return Images(signal, coverage.unit_ranks(signal + noise))


def people(setting: Setting, seen: Images, rng: np.random.Generator) -> People:
  """Draws participants, and which of them see each image."""
  n, p, users = setting.images, setting.participants, setting.users
  everyone = np.tile(np.arange(users), (n, 1))
  user = rng.permuted(everyone, axis=1)[:, :p]
  noise = setting.noise * np.exp(rng.normal(0, setting.spread, users))
  bias = setting.bias * rng.normal(size=(users, setting.pixels))
  maps = rng.normal(size=(n, p, setting.pixels)) * noise[user][..., None]
  maps += seen.signal[:, None] + bias[user]
  order = rng.permuted(np.tile(np.arange(p), (n, setting.splits, 1)), axis=-1)
  return People(user, maps, order)


def _agreement(found: People, keep: np.ndarray) -> dict[str, np.ndarray]:
  """Measures each image with the kept participants, as `user_jackknife`.

  Args:
    found: participants.
    keep: bool (P,).

  Returns:
    By name: `split_half` and `leave_one_out`, (n,), and the ranked maps
    `first`, `second`, `one`, `rest` and `human`, (n, pixels).
  """
  rank = coverage.unit_ranks
  half = found.order.shape[-1] // 2
  first, second = (
    rank((mask & keep).astype(float) @ found.maps)
    for mask in (found.order < half, found.order >= half)
  )
  maps = found.maps[:, keep]
  total = maps.sum(1, keepdims=True)
  one, rest = rank(maps), rank(total - maps)
  return {
    'split_half': (first * second).sum(-1).mean(1),
    'leave_one_out': (one * rest).sum(-1).mean(1),
    'first': first.mean(1),
    'second': second.mean(1),
    'one': one.mean(1),
    'rest': rest.mean(1),
    'human': rank(total[:, 0]),
  }


def _values(seen: Images, found: dict[str, np.ndarray]) -> dict:
  """Returns what `normalization` takes, (n,) by name, and `influence`."""
  human, model = found['human'], seen.network
  return {
    'influence': coverage.influence(model, human),
    'split_half': found['split_half'],
    'spearman_brown': participant_agreement.spearman_brown(found['split_half']),
    'floor': coverage.floor(found['first'], found['second']),
    'leave_one_out': found['leave_one_out'],
    'leave_one_out_shuffled': coverage.floor(found['one'], found['rest']),
  }


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
  return {name: float(v.mean()) for name, v in values.items()}


def _ratios(means: dict[str, float]) -> dict[str, float]:
  below = normalization.denominators(means)
  return {name: means['influence'] / below[name] for name in _RATIOS}


def experiment(
  setting: Setting, seen: Images, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
  """Measures one draw of participants, and their jackknife.

  Returns:
    Values of the images, as from `_values`, and the interval by ratio; with the
    suffix ', maps again', also that with the human maps made again.
  """
  drawn = people(setting, seen, rng)
  everyone = np.ones(setting.participants, bool)
  full = _agreement(drawn, everyone)
  values = _values(seen, full)
  means = _means(values)
  ratios = _ratios(means)
  parts = []
  for p in range(setting.participants):
    keep = everyone.copy()
    keep[p] = False
    parts.append(_agreement(drawn, keep))
  replicates = {key: {} for r in _RATIOS for key in (r, f'{r}, maps again')}
  for user in np.unique(drawn.user):
    without = {name: v.copy() for name, v in full.items()}
    for p, part in enumerate(parts):
      is_theirs = drawn.user[:, p] == user
      for name, measured in part.items():
        without[name][is_theirs] = measured[is_theirs]
    changed = _means(_values(seen, without))
    for name, value in _ratios(changed).items():
      replicates[f'{name}, maps again'][str(user)] = value
      replicates[name][str(user)] = (
        value * means['influence'] / changed['influence']
      )
  intervals = {
    key: normalization.user_interval(ratios[key.split(',')[0]], without)
    for key, without in replicates.items()
  }
  return values, intervals


def truth(setting: Setting, seen: Images | None) -> dict[str, float]:
  """Returns the ratios of means over many draws.

  Args:
    setting: what is simulated.
    seen: the images; None to draw them, too.
  """
  rng = np.random.default_rng((3, seen is None))
  everyone = np.ones(setting.participants, bool)
  total: dict[str, float] = {}
  for _ in range(_POPULATION):
    these = images(setting, rng) if seen is None else seen
    found = _values(these, _agreement(people(setting, these, rng), everyone))
    for name, value in _means(found).items():
      total[name] = total.get(name, 0) + value / _POPULATION
  return _ratios(total)


def _over_images(
  values: dict[str, np.ndarray],
) -> dict[str, tuple[float, float]]:
  """Returns the intervals over images, by ratio."""
  found = (
    normalization.controlled(
      *(
        values[k]
        for k in ('influence', 'split_half', 'spearman_brown', 'floor')
      )
    ),
    normalization.controlled_person(
      *(
        values[k]
        for k in ('influence', 'leave_one_out', 'leave_one_out_shuffled')
      )
    ),
  )
  return {name: (r.low, r.high) for name, r in zip(_RATIOS, found)}


def _both(
  a: tuple[float, float], b: tuple[float, float]
) -> tuple[float, float]:
  """Combines two intervals around one value."""
  half = np.hypot(a[1] - a[0], b[1] - b[0]) / 2
  return (a[0] + a[1]) / 2 - half, (a[0] + a[1]) / 2 + half


def run(
  settings: dict[str, Setting], experiments: int, output: str
) -> dict[str, dict]:
  """Runs the experiments that the file does not have yet.

  Args:
    settings: by name.
    experiments: number for each setting.
    output: JSON file, read and written.

  Returns:
    By setting: `setting`, `truth` with fixed and with drawn images, `done`, and
    `counts`, how many intervals of each kind were `defined` and `covered`.
  """

  def fixed_images(setting):
    return images(setting, np.random.default_rng(4))

  def begin(setting):
    fixed = truth(setting, fixed_images(setting))
    return {
      'truth': {'fixed': fixed, 'drawn': truth(setting, None)},
      'counts': {},
    }

  def add(setting, result, seed):
    rng = np.random.default_rng((5, seed))
    _, fixed = experiment(setting, fixed_images(setting), rng)
    drawn, people_too = experiment(setting, images(setting, rng), rng)
    over_images = _over_images(drawn)
    both = {r: _both(over_images[r], people_too[r]) for r in _RATIOS}
    for kind, intervals, of in (
      ('participants', fixed, 'fixed'),
      ('images', over_images, 'drawn'),
      ('both', both, 'drawn'),
    ):
      for key, (low, high) in intervals.items():
        value = result['truth'][of][key.split(',')[0]]
        coverage.count(
          result,
          f'{kind}: {key}',
          bool(low <= value <= high) if low <= high else None,
        )

  return coverage.run(
    settings,
    experiments,
    output,
    describe=lambda setting: {
      **dataclasses.asdict(setting),
      'population': _POPULATION,
    },
    begin=begin,
    add=add,
    per_save=_PER_SAVE,
  )


def table(results: dict[str, dict]) -> str:
  """Formats the coverage as Markdown."""
  names = list(next(iter(results.values()))['counts'])
  return coverage.table(
    names,
    {
      name: [coverage.covered(result, key) for key in names]
      for name, result in results.items()
    },
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  print(table(run(SETTINGS, _EXPERIMENTS.value, _OUTPUT.value)))


if __name__ == '__main__':
  app.run(main)
