# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Model Garden's Vision Transformer in any size.

Its backbone `vit` has a list of named sizes, which set all fields; here the
fields are set one by one.
"""

import inspect
from typing import Any

from official.modeling import hyperparams
from official.vision.modeling.backbones import factory
from official.vision.modeling.backbones import vit
import tf_keras


@factory.register_backbone_builder('custom_vit')
def build_custom_vit(
  input_specs: tf_keras.layers.InputSpec,
  backbone_config: hyperparams.OneOfConfig,
  norm_activation_config: hyperparams.Config,
  l2_regularizer: tf_keras.regularizers.Regularizer | None = None,
) -> tf_keras.Model:
  """Builds a Vision Transformer (Dosovitskiy et al., ICLR 2021).

  Args:
    input_specs: specification of the images, (None, H, W, 3).
    backbone_config: a `configs.backbones.Backbone` of this type.
    norm_activation_config: ignored, as by `vit`.
    l2_regularizer: regularizer of the kernels.

  Returns:
    Model Garden's `VisionTransformer`.

  Raises:
    ValueError: the image size is not a multiple of the patch size, or the
      hidden size of the number of heads.
  """
  del norm_activation_config
  options: Any = backbone_config.get()
  shape: Any = input_specs.shape
  field = 'task.model.backbone.custom_vit'
  if any(side % options.patch_size for side in shape[1:3]):
    raise ValueError(
      f'{field}.patch_size is {options.patch_size}; expected a divisor of '
      f'height and width in task.model.input_size, {shape[1:]}.'
    )
  if options.hidden_size % options.transformer.num_heads:
    raise ValueError(
      f'{field}.hidden_size is {options.hidden_size}; expected a multiple of '
      f'transformer.num_heads, {options.transformer.num_heads}.'
    )
  fields = {**options.as_dict(), **options.transformer.as_dict()}
  parameters = inspect.signature(vit.VisionTransformer).parameters
  return vit.VisionTransformer(
    input_specs=input_specs,
    kernel_regularizer=l2_regularizer,
    **{name: value for name, value in fields.items() if name in parameters},
  )
