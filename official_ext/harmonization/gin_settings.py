# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Parses the files and bindings of gin, and explains its errors."""

from collections.abc import Sequence
import functools
import os
import re

from absl import logging
import tensorflow as tf

import gin
from official_ext.harmonization import choices
from official_ext.harmonization import resources
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)

# gin's messages about unknown names; its exceptions have no fields.
_UNKNOWN_NAME = re.compile(
  r"No configurable matching (?:reference )?'@?([\w./]+)"
)
_UNKNOWN_MACRO = re.compile(r"No bindings specified for '([\w.]+)/gin.macro'")
_UNKNOWN_ARGUMENT = re.compile(
  r"'harmonize' doesn't have a parameter named '(\w+)'"
)


def _error(origin: str, error: Exception) -> ValueError:
  """Describes why gin refuses a file or a binding."""
  message = str(error)
  if isinstance(error, SyntaxError):
    return ValueError(
      f'{origin}: cannot be parsed ({" ".join(message.split())}); expected '
      'harmonize.FIELD = VALUE, one per line. Put text in quotes '
      '("harmonize.saliency = \'abs_max\'") and capitalize True and False.'
    )
  if unknown := _UNKNOWN_ARGUMENT.search(message):
    known = sorted(exp_cfg.SETTINGS)
    near = choices.nearest(unknown[1], known)
    return ValueError(
      f'{origin}: harmonize.{unknown[1]} is not an argument; expected one '
      f'of {", ".join(known)}.'
      + (f' Did you mean harmonize.{near}?' if near else '')
    )
  if unknown := _UNKNOWN_NAME.search(message):
    return ValueError(
      f'{origin}: {unknown[1]} is not known to gin; expected harmonize.FIELD '
      '= VALUE.' + choices.did_you_mean(unknown[1], ['harmonize'])
    )
  if unknown := _UNKNOWN_MACRO.search(message):
    return ValueError(
      f'{origin}: %{unknown[1]} is not defined; expected a line '
      f'{unknown[1]} = VALUE before it. Add it, or put text in quotes.'
    )
  # gin appends the lines of the file, and the folders that it searched.
  reason = message.partition('\n')[0].partition('. Searched')[0].rstrip('.')
  return ValueError(
    f'{origin}: {reason}; expected lines such as harmonize.weight = 1. '
    'Correct it.'
  )


def _file(name: str) -> str:
  """Returns the path of a file of --gin_file, which must exist."""
  path = resources.find(name, 'gin')
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    known = resources.shipped('gin')
    raise ValueError(
      f'--gin_file={name} is not a file; expected a path, or one of '
      f'{", ".join(known)}.'
      + choices.did_you_mean(os.path.basename(name), known)
    )
  return path


def parse(gin_files: Sequence[str], bindings: Sequence[str]):
  """Parses gin, and reports bindings that a later file or flag replaces.

  Args:
    gin_files: paths, or names of files that ship with the project.
    bindings: values of --gin_params.

  Raises:
    ValueError: a file or binding cannot be parsed; the message names it.
  """
  inputs = [
    (
      f'--gin_file={name}',
      functools.partial(gin.parse_config_file, _file(name)),
    )
    for name in gin_files
  ]
  inputs += [
    (f'--gin_params={text}', functools.partial(gin.parse_config, text))
    for text in bindings
  ]
  origins = {}
  for origin, parse in inputs:
    try:
      parse()
      bound = exp_cfg.bindings()
    except (SyntaxError, ValueError, OSError, ImportError) as e:
      raise _error(origin, e) from None
    for name, value in bound.items():
      before = origins.get(name)
      if before and repr(before[1]) != repr(value):
        logging.warning(
          '%s binds harmonize.%s to %r; %s replaces it with %r.',
          before[0],
          name,
          before[1],
          origin,
          value,
        )
      if not before or repr(before[1]) != repr(value):
        origins[name] = (origin, value)
  try:
    gin.finalize()
  except ValueError as e:
    raise _error('gin', e) from None
