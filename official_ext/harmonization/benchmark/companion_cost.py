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
    A sentence. The time is an upper bound: a control needs no network, and
    results of earlier runs are used again. That of other input sizes is taken
    to be proportional to the number of pixels.
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
  passes, seconds, parts = 0, 0.0, []
  for protocol in protocols:
    result = measured and measured.results.get(protocol.name)
    if not protocol.has_controls or not result or not result.scores:
      continue
    score = next(iter(result.scores.values()))
    images = (score.n or 0) + (score.n_undefined or 0)
    of_twins = protocol.images_of_random_twins(images)
    # Variants share their controls, which need no network.
    of_controls = 0 if protocol_names.is_variant(protocol.name) else count
    if not images or result.seconds is None:
      continue
    own_pixels = math.prod(measured.adapter.input_size)
    pixels = sum(map(math.prod, resized)) / own_pixels
    passes += (of_controls + len(resized)) * images + twins * of_twins
    seconds += (
      ((of_controls + pixels) * images + twins * of_twins)
      * result.seconds
      / images
    )
    shown = [f'{choices.plural(images, "image")} for each control'] * bool(
      of_controls
    )
    shown += [f'{images} for each input size'] * bool(resized)
    shown += [f'{of_twins} for each twin'] * bool(twins)
    parts.append(f'{protocol.name}: {", ".join(shown)}')
  if not measured or not passes:
    return f'To be measured next: {rows}.'
  return (
    f'To be measured next: {rows} ({"; ".join(parts)}), {passes} passes, at '
    f'most {progress.in_words(seconds)} at {seconds / passes:.2g} seconds per '
    f'image of {measured.name}.'
  )
