# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A protocol in one file, registered from outside the package.

Brightness: does a network respond more strongly to bright images?
"""

import dataclasses

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.report import blocks

with epy.lazy_imports():
  import numpy as np

  from official_ext.harmonization.benchmark import results
  from official_ext.harmonization.evaluation import scores


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the protocol."""

  brightness: int | None = cli.flag(None, 'Number of gray images.', at_least=2)
  brightest: float = cli.flag(255.0, 'Gray level of the brightest image.')


class BrightnessProtocol(protocol.Protocol):
  """Counts steps of brightness that increase the largest logit."""

  name, label = 'brightness', 'Brightness'
  title = 'Brightness: who responds to light'
  Options = Options
  score_words = {'rises': 'share of rises'}
  headlines = ('rises',)
  alignment_scores = ('rises',)

  def __init__(self, options):
    self._options = options

  @classmethod
  def from_options(cls, options, run):
    return cls(options)

  @classmethod
  def flags_without_effect(cls, options, measured):
    if cls.name not in measured:
      yield 'without --brightness', ('brightest',)

  def settings(self):
    return dataclasses.asdict(self._options)

  def identity(self, digests):
    options = dataclasses.asdict(self._options)
    return {'protocol': 'brightness 1', 'data': {}, 'options': options}

  def run(self, adapter, progress, journal=None):
    levels = np.linspace(
      0, self._options.brightest, self._options.brightness, dtype=np.float32
    )
    shape = (len(levels), *adapter.input_size, 3)
    images = np.broadcast_to(levels[:, None, None, None], shape)
    logits = adapter.logits(adapter.preprocess(np.array(images))).max(-1)
    progress(len(levels))
    rises = np.float64(np.diff(logits) > 0)
    return results.Measurement(
      scores=[scores.score('rises', rises, preprocessing='gray images')],
      rows=[{'level': level, 'rises': r} for level, r in zip(levels, rises)],
    )

  @classmethod
  def describe(cls, settings):
    return f'{settings["brightness"]} gray images of growing brightness.'

  @classmethod
  def facts(cls, settings):
    return protocol.facts_of(settings, {'brightest': 'brightest gray'})

  @classmethod
  def sections(cls, found, twins):
    return [blocks.Sentences([f'{name} has seen the light.' for name in found])]
