# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Names that flags and configuration fields choose from.

They are here, and not where they are used, so that a command can list them in
--help without importing TensorFlow.
"""

# How a human map is resized before it is blurred: from the two pixels per side
# that the ClickMe release samples, or from all pixels.
MAP_RESIZES = ('released', 'antialias')
# The kernel of that blur: the released one shifts maps by half a cell.
BLUR_KERNELS = ('released', 'centred')
# What a human map shows of its image, see `data.maps.map_framing`.
FRAMINGS = ('same', 'stretched', 'center_crop')
# How counts of clicks become a map, see `data.maps.clicks`.
CLICK_BLURS = ('disc', 'gaussian')
# How a model's map is computed, see `benchmark.explainers`.
EXPLAINERS = (
  'attention_rollout',
  'expected_gradients',
  'grad_cam',
  'gradient',
  'gradient_x_input',
  'integrated_gradients',
  'occlusion',
  'smoothgrad',
  'smoothgrad_squared',
  'token_gradients',
  'training_map',
)
# Those that take about one gradient of an image; the others are measured on a
# sample of the images.
CHEAP_EXPLAINERS = (
  'attention_rollout',
  'grad_cam',
  'gradient',
  'gradient_x_input',
  'token_gradients',
  'training_map',
)
# Those whose number of samples or steps can be set.
SAMPLED_EXPLAINERS = (
  'expected_gradients',
  'integrated_gradients',
  'smoothgrad',
  'smoothgrad_squared',
)
# Rows without a network, see `benchmark.controls`; in results, each name has
# this prefix.
CONTROLS = (
  'centre',
  'mean-map',
  'other-maps',
  'noise',
  'sobel',
  'contrast',
  'colour',
)
CONTROL_PREFIX = 'control-'
# Which saliency metrics are computed besides rank correlations, see
# `benchmark.saliency_scores`: all but the earth mover's distance, all, or none.
SALIENCY_METRICS = ('standard', 'all', 'none')
# How logits become a response to a stimulus, see
# `benchmark.psychophysics.decisions`.
DECISION_RULES = ('split_398', 'mean_logit', 'readout')
# How a stimulus is brought to a model's input size.
STIMULUS_FRAMINGS = ('resize', 'center_crop')
