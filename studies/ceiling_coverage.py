# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Simulates how often intervals of normalized alignment cover the truth.

  python -m studies.ceiling_coverage \
      --output=docs/results/ceiling_coverage.json

Participants' maps are a map common to all images, plus a map of the image, plus
noise, all normal in every pixel; images differ in their noise. A network sees
the first two and has noise, or not. Each experiment draws images, participants
and a network, and computes `controlled` and `controlled_person`:

  value: on 20,000 images, also divided by denominators that are in use but
    wrong: the ceiling without its floor, and halves instead of all
    participants.
  coverage: the part of the experiments whose 95 % interval contains that value,
    with the ceiling of the same images, and as if the ceiling were exact.

Experiments are saved as they finish; run the command again to continue.
"""

import dataclasses

from absl import app
from absl import flags
import numpy as np

from official_ext.harmonization.benchmark import normalization
from official_ext.harmonization.benchmark import participant_agreement
from official_ext.harmonization.benchmark import statistics
from studies import coverage

_EXPERIMENTS = flags.DEFINE_integer('experiments', 1000, 'Per setting.')
_POPULATION = flags.DEFINE_integer('population', 20000, 'Images of the truth.')
_OUTPUT = flags.DEFINE_string(
  'output', 'docs/results/ceiling_coverage.json', 'JSON file for the results.'
)


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is simulated.

  Attributes:
    images: per experiment.
    participants: per image.
    noise: standard deviation of a participant's noise; the map of the image has
      variance 1.
    spread: the noise of images varies by factors exp(+-spread).
    network_noise: standard deviation of the network's noise.
    common: standard deviation of the map that is common to all images.
    pixels: of a map.
    splits: of the participants.
  """

  images: int = 50
  participants: int = 6
  noise: float = 2.0
  spread: float = 0.3
  network_noise: float = 0.0
  common: float = 1.0
  pixels: int = 64
  splits: int = 20


SETTINGS = {
  'noise-free network': Setting(),
  'noisy network': Setting(network_noise=2.0),
  'weak agreement': Setting(noise=4.0, network_noise=1.0),
  'few images': Setting(images=20, network_noise=1.0),
}


def simulate(
  setting: Setting, rng: np.random.Generator, common: np.ndarray
) -> dict[str, np.ndarray]:
  """Draws images, participants and a network.

  Args:
    setting: what is simulated.
    rng: of all draws.
    common: (pixels,), the map that is common to all images.

  Returns:
    float64 (images,) by name: the network's `influence`, and `split_half`,
    `spearman_brown`, `floor`, `leave_one_out` and `leave_one_out_shuffled`.
  """
  n, p, pixels = setting.images, setting.participants, setting.pixels
  signal = common + rng.normal(size=(n, pixels))
  network = signal + setting.network_noise * rng.normal(size=signal.shape)
  noise = setting.noise * np.exp(rng.normal(0, setting.spread, (n, 1, 1)))
  people = signal[:, None] + noise * rng.normal(size=(n, p, pixels))

  model, human = (
    coverage.unit_ranks(network),
    coverage.unit_ranks(people.mean(1)),
  )

  order = rng.permuted(np.tile(np.arange(p), (n, setting.splits, 1)), axis=-1)
  halves = [
    coverage.unit_ranks(mask.astype(float) @ people)
    for mask in (order < p // 2, order >= p // 2)
  ]
  split_half = (halves[0] * halves[1]).sum(-1).mean(1)
  first, second = (half.mean(1) for half in halves)
  everyone = people.sum(1, keepdims=True)
  one, rest = (
    coverage.unit_ranks(people),
    coverage.unit_ranks(everyone - people),
  )
  leave_one_out = (one * rest).sum(-1).mean(1)
  one, rest = one.mean(1), rest.mean(1)
  return {
    'influence': coverage.influence(model, human),
    'split_half': split_half,
    'spearman_brown': participant_agreement.spearman_brown(split_half),
    'floor': coverage.floor(first, second),
    'leave_one_out': leave_one_out,
    'leave_one_out_shuffled': coverage.floor(one, rest),
  }


def population(
  setting: Setting, images: int, seed: int = 0
) -> dict[str, float]:
  """Returns the ratios on many images, for several denominators."""
  rng = np.random.default_rng(seed)
  parts, left = [], images
  common = _common(setting)
  while left:
    # The maps of 2,000 images are in memory at a time.
    part = dataclasses.replace(setting, images=min(left, 2000))
    parts.append(simulate(part, rng, common))
    left -= part.images
  found = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
  mean = {name: float(values.mean()) for name, values in found.items()}
  return {
    'controlled': _controlled(found).value,
    'controlled_person': _controlled_person(found).value,
    'over split-half minus floor': mean['influence']
    / (mean['split_half'] - mean['floor']),
    'over the upper ceiling': mean['influence']
    / np.sqrt(mean['spearman_brown']),
    'negative Spearman-Brown': float(np.mean(found['spearman_brown'] < 0)),
    **mean,
  }


def _common(setting: Setting) -> np.ndarray:
  """Returns the map that all images of all experiments have in common."""
  return setting.common * np.random.default_rng(1).normal(size=setting.pixels)


def _controlled(found) -> normalization.Normalized:
  return normalization.controlled(
    found['influence'],
    found['split_half'],
    found['spearman_brown'],
    found['floor'],
  )


def _controlled_person(found) -> normalization.Normalized:
  return normalization.controlled_person(
    found['influence'],
    found['leave_one_out'],
    found['leave_one_out_shuffled'],
  )


def experiment(
  setting: Setting, truth: dict[str, float], seed: int
) -> dict[str, bool | None]:
  """Returns which intervals of an experiment contain the true value.

  Args:
    setting: what is simulated.
    truth: from `population`.
    seed: of the experiment.

  Returns:
    By name of the interval; None where the ratio is undefined.
  """
  found = simulate(setting, np.random.default_rng((2, seed)), _common(setting))
  covered: dict[str, bool | None] = {}
  for name, ratio in (
    ('controlled', _controlled(found)),
    ('controlled_person', _controlled_person(found)),
  ):
    exact = statistics.mean(found['influence'] / ratio.denominator.value)
    for key, interval in ((name, ratio), (f'{name}, ceiling exact', exact)):
      covered[key] = (
        None if ratio.reason else interval.low <= truth[name] <= interval.high
      )
  return covered


def run(
  settings: dict[str, Setting], experiments: int, images: int, output: str
) -> dict[str, dict]:
  """Runs the experiments that the file does not have yet.

  Args:
    settings: by name.
    experiments: number for each setting.
    images: of the population that gives the true values.
    output: JSON file, read and written.

  Returns:
    The results by setting: `setting`, `truth`, and for each interval the
    numbers of experiments in which it was `defined` and in which it `covered`.
  """

  def add(setting, result, seed):
    for key, hit in experiment(setting, result['truth'], seed).items():
      coverage.count(result, key, hit)

  return coverage.run(
    settings,
    experiments,
    output,
    describe=lambda setting: {
      **dataclasses.asdict(setting),
      'population': images,
    },
    begin=lambda setting: {'truth': population(setting, images), 'counts': {}},
    add=add,
  )


def table(results: dict[str, dict]) -> str:
  """Formats the results as Markdown."""
  ratios = ['controlled', 'controlled_person']
  names = list(next(iter(results.values()))['counts'])
  return coverage.table(
    ratios + names,
    {
      name: [f'{result["truth"][key]:.3f}' for key in ratios]
      + [coverage.covered(result, key) for key in names]
      for name, result in results.items()
    },
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  print(
    table(run(SETTINGS, _EXPERIMENTS.value, _POPULATION.value, _OUTPUT.value))
  )


if __name__ == '__main__':
  app.run(main)
