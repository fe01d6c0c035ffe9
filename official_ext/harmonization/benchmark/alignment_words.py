# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What the scores of maps are called, and what their values mean."""

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
