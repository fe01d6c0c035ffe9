# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Says what rows besides the networks will cost, before they are measured."""

from collections.abc import Sequence
import math

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import progress
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark.adapters import sizes


def sentence(
  protocols: Sequence[protocol_lib.Protocol],
  companions: Sequence[model_specs.Model],
  measured: results.ModelResults | None,
) -> str:
  """Estimates the cost from the time that a network took.

  Args:
    protocols: to be measured.
    companions: controls, random twins and networks at other input sizes.
    measured: a network with results; None if no network has any.

  Returns:
    A sentence. The time is that of random twins and other input sizes, of which
    the latter is taken to be proportional to the number of pixels. A control
    needs no network, and its time is not that of one.
  """
  twins = sum(bool(model.twin_of) for model in companions)
  resized = [sizes.parse(m.input_size) for m in companions if m.size_of]
  count = len(companions) - twins - len(resized)
  kinds = [
    choices.plural(n, kind)
    for n, kind in (
      (len(resized), 'other input size'),
      (count, 'control'),
      (twins, 'random twin'),
    )
    if n
  ]
  rows = ' and '.join(filter(None, (', '.join(kinds[:-1]), kinds[-1])))
  seconds, rates, parts = 0.0, [], []
  for protocol in protocols:
    result = measured and measured.results.get(protocol.name)
    if not protocol.has_controls or not result or not result.scores:
      continue
    score = next(iter(result.scores.values()))
    images = (score.n or 0) + (score.n_undefined or 0)
    of_twins = protocol.images_of_random_twins(images)
    # Variants share their controls.
    of_controls = 0 if protocol_names.is_variant(protocol.name) else count
    if not images or result.seconds is None:
      continue
    rate = result.seconds / images
    own_pixels = math.prod(measured.adapter.input_size)
    pixels = sum(map(math.prod, resized)) / own_pixels
    seconds += (pixels * images + twins * of_twins) * rate
    shown = [f'{choices.plural(images, "image")} for each control'] * bool(
      of_controls
    )
    shown += [f'{images} for each input size'] * bool(resized)
    shown += [f'{of_twins} for each twin'] * bool(twins)
    rates.append(f'{rate:.2g}')
    parts.append(f'{protocol.name}: {", ".join(shown)}')
  if not measured or not parts:
    return f'To be measured next: {rows}.'
  text = f'To be measured next: {rows} ({"; ".join(parts)}).'
  if not seconds:
    return text
  whose = ' and '.join(
    filter(None, ('random twins' * bool(twins), 'input sizes' * bool(resized)))
  )
  return (
    f'{text} The {whose} take about {progress.in_words(seconds)}, at '
    f'{" and ".join(rates)} seconds per image of {measured.name}, less if '
    'results of an earlier run are used again.'
  )
