# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What the scores of maps are called, how they are made and what they mean."""

from collections.abc import Mapping
from typing import Any

# Titles of the scores, in the order of tables.
TITLES = {
  'top1': 'top-1',
  'controlled': 'controlled',
  'specific': 'specific',
  'own': 'own',
  'shuffled': 'shuffled',
  'spearman': 'published rho',
  'dice': 'Dice',
  'iou': 'IoU',
  'auc': 'AUC',
  'pointing': 'pointing',
  'shuffled_auc': 'shuffled AUC',
  'information_gain': 'information gain',
  'nss': 'NSS',
  'cc': 'CC',
  'kl': 'KL',
  'sim': 'SIM',
  'emd': 'EMD',
}

# Columns of the table of images that give an image's value of a score: the
# first minus the others.
IMAGE_VALUES = {
  'top1': ('correct',),
  # Of `Protocol.with_people`.
  'controlled': ('controlled',),
  'controlled_person': ('controlled_person',),
  'specific': ('influence',),
  'own': ('own',),
  'shuffled': ('own', 'influence'),
  # Tables of earlier versions do not have it.
  'shuffled_auc': ('shuffled_auc_influence',),
  **{
    name: (name,)
    for name in (
      'spearman',
      'dice',
      'iou',
      'auc',
      'pointing',
      'information_gain',
      'nss',
      'cc',
      'kl',
      'sim',
      'emd',
    )
  },
}

# Saliency metrics, and what their values mean.
MEANINGS = {
  'auc': 'AUC: a high value means that the map is higher where people looked '
  '(above the 90th percentile of the human map) than elsewhere; .5 is chance.',
  'pointing': 'Pointing: the part of images in which the highest point of the '
  'map is where people looked; a random pixel has .1.',
  'shuffled_auc': 'Shuffled AUC: a high value means that the map is higher '
  'where people looked in this image than where they looked in others; .5 is '
  'chance, also for a map that ignores the image.',
  'information_gain': 'Information gain, in bits: above 0, the map predicts '
  'where people look better than the mean human map of the other images.',
  'nss': 'NSS: a high value means that the map is high where people look, in '
  'standard deviations of its pixels; 0 is chance.',
  'cc': 'CC: a high value means a linear relation of the pixels of both maps; '
  '0 is chance and 1 the highest value.',
  'kl': 'KL divergence, in nats: a high value means that people look where the '
  'map is low; lower is better, and 0 means equal densities.',
  'sim': 'SIM: a high value means that the two densities share more mass; 1 '
  'means equal densities.',
  'emd': "EMD, the earth mover's distance in parts of the image's side: a high "
  'value means that mass lies far from where people look; lower is better.',
}

# What a map is, for the explainers whose name does not say it.
_MAPS = {
  'gradient': 'the largest magnitude over colour channels of the gradient of '
  "the label's logit with respect to the image",
  'smoothgrad_squared': 'the largest mean square over noisy copies of the '
  "image, over colour channels, of the gradient of the label's logit",
  'training_map': 'the mean over colour channels of the gradient of the '
  "label's logit with respect to the image",
}


def describe(settings: Mapping[str, Any], width: float) -> str:
  """Says how the scores of a protocol with maps are made.

  Args:
    settings: of the protocol.
    width: standard deviation of the Gaussian that blurs the maps that models
      are ranked by, in pixels at 224.

  Returns:
    A few sentences.
  """
  size, ceiling = settings['comparison_size'], settings['ceiling']
  explainer = settings['explainer']
  blurred = 'blurred as in the ClickMe release' if settings['blur'] else 'raw'
  return (
    f"A model's map of an image ({_MAPS.get(explainer, explainer)}) is "
    'compared with human maps at '
    + (
      "the model's input size. "
      if size == 'native'
      else f'{size} x {size} pixels. '
    )
    + 'Own is the mean rank correlation with the human map of the same '
    'image, shuffled that with the human maps of other images, and '
    'specific the difference, which is 0 for a map that ignores the image. '
    + (
      f'Measured on {settings["sample"]} images, drawn at random, the same for '
      'all models. '
      if settings.get('sample')
      else ''
    )
    + 'For these, the maps of models and people are blurred by the same '
    'Gaussian, with a standard deviation of '
    f'{width} pixels at 224. Controls '
    'are rows without a network; random-... are the same networks '
    'with fresh weights. Published rho is the score of Fel et al. (NeurIPS '
    f'2022): human maps are {blurred}, the maps of models are not. It cannot '
    'show that a network uses what people use, because a map of the image '
    'centre has a high published rho too. Dice and IoU compare what lies '
    "above each map's 90th percentile. "
    + (
      'Published rho is not divided by a human ceiling, because --ceiling was '
      'not given.'
      if ceiling is None
      else 'Alignment is the published rho divided by the ceiling of '
      f'{ceiling:.4f}, the rank correlation among people.'
    )
  )
