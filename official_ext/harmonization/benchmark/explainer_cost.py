# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What a map costs: passes per image, and the time that they will take.

passes = explainer_cost.passes('smoothgrad_squared', (224, 224))
passes.gradients, passes.forward  # 25, 0
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from official_ext.harmonization import choices
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import progress
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import results

# A gradient takes a forward pass and about two more.
_FORWARD = 1 / 3
_ONE_GRADIENT = ('gradient', 'gradient_x_input', 'training_map')


class Passes(NamedTuple):
  """Passes of a network that the map of an image takes.

  Attributes:
    gradients: forward and backward.
    forward: forward only.
  """

  gradients: int
  forward: int

  def in_gradients(self) -> float:
    """Returns the cost in gradients."""
    return self.gradients + self.forward * _FORWARD

  def in_words(self) -> str:
    """Returns for example '25 gradients', or '36 forward passes'."""
    parts = (
      (self.gradients, choices.plural(self.gradients, 'gradient')),
      (self.forward, choices.plural(self.forward, 'forward pass')),
    )
    return ' and '.join(text for count, text in parts if count)


class _CountingNetwork:
  """A network that returns zeros and counts the images that it is shown."""

  def __init__(self):
    self.passes = Passes(0, 0)

  def logits(self, inputs: np.ndarray) -> np.ndarray:
    self.passes = Passes(
      self.passes.gradients, self.passes.forward + len(inputs)
    )
    return np.zeros((len(inputs), 2), np.float32)

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    del labels
    self.passes = Passes(
      self.passes.gradients + len(inputs), self.passes.forward
    )
    return np.zeros(inputs.shape, np.float32)


@functools.cache
def passes(
  name: str, input_size: Sequence[int], samples: int | None = None
) -> Passes | None:
  """Counts the passes of an explainer for one image.

  Args:
    name: of the explainer.
    input_size: (height, width) of the network.
    samples: of the explainer; None for its default.

  Returns:
    The passes; None if they depend on the network, as for explainers that open
    it.
  """
  network = _CountingNetwork()
  options: dict[str, Any] = {'samples': samples}
  if explainers.needs_baselines(name):
    options['baselines'] = np.zeros((2, *input_size, 3), np.float32)
  # Not constant, because some explainers divide by the range of the image.
  image = np.linspace(0, 1, 3 * input_size[0] * input_size[1], dtype=np.float32)
  try:
    explainers.get(name, network, **options)(
      image.reshape(1, *input_size, 3), np.eye(2, dtype=np.float32)[:1]
    )
  except Exception:  # Explainers of users may raise any.
    return None
  return network.passes


def seconds_per_gradient(model: results.ModelResults) -> float | None:
  """Returns the seconds that one gradient of an image took.

  Args:
    model: the network.

  Returns:
    The least of the explainers that take one gradient; None if none was
    measured.
  """
  found = [
    explained.seconds_per_image
    for result in model.results.values()
    for name, explained in (result.explainers or {}).items()
    if name in _ONE_GRADIENT and explained.seconds_per_image is not None
  ]
  return min(found, default=None)


def before(
  model: results.ModelResults,
  protocol: str,
  explainer: str,
  images: int | None,
  samples: int | None = None,
) -> str:
  """Says what the maps of a network will cost.

  Args:
    model: the network, with its results so far.
    protocol: its name.
    explainer: its name.
    images: their number; None if it is unknown.
    samples: of the explainer; None for its default.

  Returns:
    A sentence.
  """
  found = passes(explainer, tuple(model.adapter.input_size), samples)
  words = f'{found.in_words()} per image' if found else 'an unknown cost'
  count = '' if images is None else f' on {choices.plural(images, "image")}'
  text = f'{model.name}: {protocol} takes {words}{count}'
  seconds = seconds_per_gradient(model)
  if seconds is None or images is None or found is None:
    return f'{text}.'
  total = progress.in_words(images * found.in_gradients() * seconds)
  return f'{text}, about {total} at {seconds:.2g} seconds per gradient.'


def in_advance(
  protocols: Sequence[protocol_lib.Protocol], networks: int, twins: int
) -> list[str]:
  """Says how many gradients expensive explainers take, before any is measured.

  Args:
    protocols: to be measured.
    networks: their number, with those at other input sizes.
    twins: number of random twins.

  Returns:
    A sentence for each expensive explainer. The number is an upper bound:
    results of earlier runs are used again.
  """
  found = []
  for protocol in protocols:
    if not protocol.has_controls:
      continue  # It says so itself.
    settings = protocol.settings()
    explainer = settings.get('explainer', 'gradient')
    if explainer in option_values.CHEAP_EXPLAINERS:
      continue
    each = passes(explainer, (224, 224), settings.get('explainer_samples'))
    text = f'{protocol.name}: '
    if each is None:
      found.append(f'{text}the cost of {explainer} depends on the network.')
      continue
    text += f'{each.in_words()} per image'
    images = protocol.total() or settings.get('sample')
    if images is None:
      found.append(f'{text}; the number of images is not recorded.')
      continue
    of_twins = protocol.images_of_random_twins(images)
    total = (networks * images + twins * of_twins) * each.in_gradients()
    rows = choices.plural(networks, 'network')
    rows += f' and {choices.plural(twins, "random twin")}' * bool(twins)
    found.append(
      f'{text} and {choices.plural(images, "image")}, at most '
      f'{total:,.0f} gradients for {rows} (--explainers=gradient skips them).'
    )
  return found
