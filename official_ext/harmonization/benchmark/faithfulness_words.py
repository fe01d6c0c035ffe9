# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What the scores of explanations are called, and what they mean."""

from collections.abc import Mapping
from typing import Any

# Titles of the scores, in the order of tables.
TITLES = {
  'map_minus_noise': 'map minus noise',
  'blurred_map_minus_noise': 'blurred map minus noise',
  'human_minus_noise': 'human map minus noise',
  'randomized_rho': 'rho, random weights',
  'randomized_excess': 'rho, random weights minus other image',
  'class_distance': '1 - rho, other class',
  'class_insertion': 'insertion minus other class',
}

# Maps whose order pixels are replaced in.
ORDERS = {
  'map': 'map of the network',
  'blurred_map': 'the same, blurred',
  'human': 'human map, blurred',
  'noise': 'white noise',
  'blurred_noise': 'blurred noise',
}
FILLS = {
  'blur': 'blurred image',
  'mean': 'mean colour',
  'other': 'another image',
}
# What a map is compared with.
RELATED = {
  'head': 'last layer random',
  'half': 'last half random',
  'all': 'all layers random',
  'unrelated': 'another image',
  'other_class': 'another class',
}
FORMS = {
  'rho': 'as they are',
  'magnitude': 'magnitudes',
  'blurred': 'blurred as for specific alignment',
}


def describe(settings: Mapping[str, Any]) -> str:
  """Says how the scores are made, in a few sentences.

  Args:
    settings: of the protocol.
  """
  return (
    f'The maps of the explanation {settings["explainer"]} are checked in three '
    'ways. Deletion replaces the pixels of an image in the order of a map, and '
    'insertion restores them; the area under the probability of the true class '
    'is low for deletion and high for insertion if the map shows what the '
    'network uses (Petsiuk et al. 2018). The difference, insertion minus '
    'deletion, is averaged over three fills (the blurred image, its mean '
    'colour, another image), and that of noise is subtracted, which is as '
    'smooth as the map. Its expectation is 0 for noise. Randomization: the '
    'rank correlation of the map with that of the same network after its '
    'weights were drawn anew (Adebayo et al. 2018); a map that depends on what '
    'the network learned has a low one, near that of maps of two images. Class '
    "specificity: 1 minus the rank correlation with the map of the network's "
    'highest other class, and how much more the probability of the true class '
    'rises when pixels are restored in the order of its map than in the order '
    "of the other class's map."
  )
