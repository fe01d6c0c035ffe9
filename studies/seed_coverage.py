# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Simulates how often intervals over images and seeds cover the truth.

  python -m studies.seed_coverage --output=docs/results/seed_coverage.json

Several runs of one network see the same images. Human maps are a map common to
all images, plus a map of the image, plus noise, all normal in every pixel; the
maps of a run are the first two plus noise of the run. Images differ in the
noise of people, and runs in their own. Each experiment draws images and two
networks of several runs each, computes `specific` of each run, and its interval

  mean: of the first network, over images and seeds (`repeated_runs.mean`).
  difference: of the two networks, whose true difference is 0.
  images only: of the first network, as if other seeds gave the same scores.

`coverage` is the part of the experiments whose 95 % interval contains the true
mean, from 2,000 networks of one run and 50 images.

Experiments are saved as they finish; run the command again to continue.
"""

import dataclasses

import numpy as np

from official_ext.harmonization import cli
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import statistics
from studies import coverage

_POPULATION, _POPULATION_IMAGES = 2000, 50


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command."""

  experiments: int = cli.flag(1000, 'Number per setting.', at_least=1)
  output: str = cli.flag(
    'docs/results/seed_coverage.json', 'JSON file for the results.', path=True
  )


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is simulated.

  Attributes:
    runs: of each network.
    images: per experiment.
    seed_spread: the noise of runs varies by factors exp(+-seed_spread).
    image_spread: the same for the noise of people between images.
    noise: standard deviation of the noise of people and networks; the map of
      the image has variance 1.
    pixels: of a map.
  """

  runs: int = 5
  images: int = 50
  seed_spread: float = 0.0
  image_spread: float = 0.5
  noise: float = 1.5
  pixels: int = 64


KINDS = {
  'images vary': {'seed_spread': 0.0},
  'both vary': {'seed_spread': 0.15},
  'seeds vary': {'seed_spread': 0.5},
}
SETTINGS = {
  f'{kind}, {runs} runs, {images} images': Setting(runs, images, **spread)
  for kind, spread in KINDS.items()
  for runs in (5, 10)
  for images in (20, 50, 200)
}


def simulate(
  setting: Setting, runs: int, rng: np.random.Generator
) -> np.ndarray:
  """Draws images and runs.

  Args:
    setting: what is simulated.
    runs: number of runs.
    rng: of all draws.

  Returns:
    float64 (runs, images), the influence of each image on `specific`.
  """
  shape = (setting.images, setting.pixels)
  common = np.random.default_rng(1).normal(size=setting.pixels)
  signal = common + rng.normal(size=shape)
  spread = np.exp(setting.image_spread * rng.normal(size=(setting.images, 1)))
  human = coverage.unit_ranks(
    signal + setting.noise * spread * rng.normal(size=shape)
  )
  found = []
  for _ in range(runs):
    noise = setting.noise * np.exp(setting.seed_spread * rng.normal())
    maps = coverage.unit_ranks(signal + noise * rng.normal(size=shape))
    found.append(coverage.influence(maps, human))
  return np.array(found)


def truth(setting: Setting, seed: int = 0) -> float:
  """Returns the mean score; `specific` is unbiased for any number of images."""
  part = dataclasses.replace(setting, images=_POPULATION_IMAGES)
  rng = np.random.default_rng(seed)
  return float(
    np.mean([simulate(part, 1, rng).mean() for _ in range(_POPULATION)])
  )


def experiment(setting: Setting, true: float, seed: int) -> dict[str, bool]:
  """Returns, by name of the interval, whether it contains the true value.

  Args:
    setting: what is simulated.
    true: the true mean.
    seed: of the experiment.
  """
  rng = np.random.default_rng((2, seed))
  both = simulate(setting, 2 * setting.runs, rng)
  one, other = both[: setting.runs], both[setting.runs :]
  return {
    name: bool(found.low <= value <= found.high)
    for name, found, value in (
      ('mean', repeated_runs.mean(one), true),
      ('difference', repeated_runs.difference(one, other), 0.0),
      ('images only', statistics.mean(one.mean(axis=0)), true),
    )
  }


def run(
  settings: dict[str, Setting], experiments: int, output: str
) -> dict[str, dict]:
  """Runs the experiments that the file does not have yet.

  Args:
    settings: by name.
    experiments: number for each setting.
    output: JSON file, read and written.

  Returns:
    By setting: `setting`, `truth`, the number `done`, and how many intervals
    `covered` the truth.
  """

  def add(setting, result, seed):
    for key, hit in experiment(setting, result['truth'], seed).items():
      result['covered'][key] = result['covered'].get(key, 0) + hit

  return coverage.run(
    settings,
    experiments,
    output,
    describe=dataclasses.asdict,
    begin=lambda setting: {'truth': truth(setting), 'covered': {}},
    add=add,
  )


def table(results: dict[str, dict]) -> str:
  """Formats the coverage as Markdown."""
  names = list(next(iter(results.values()))['covered'])
  return coverage.table(
    names,
    {
      name: [f'{r["covered"][key] / r["done"]:.3f}' for key in names]
      for name, r in results.items()
    },
  )


def main(options: Options):
  """Runs the experiments and prints the table."""
  print(table(run(SETTINGS, options.experiments, options.output)))


if __name__ == '__main__':
  cli.run(main, Options)
