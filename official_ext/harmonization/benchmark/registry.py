# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The protocols of the benchmark: one name on one line each.

The order is that of the report. A protocol of another package registers itself:

  from official_ext.harmonization import evaluate
  from official_ext.harmonization.benchmark import registry

  registry.register('contrast', 'my_package.contrast:Contrast')
  evaluate.run()
"""

# Bazel: deps = ["//official_ext/harmonization/benchmark/protocols:*"]

import importlib

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import protocol

_PROTOCOLS = 'official_ext.harmonization.benchmark.protocols'

# Module and class by name. Modules are imported when flags are defined.
_REGISTERED: dict[str, str | type[protocol.Protocol]] = {
  'imagenet': f'{_PROTOCOLS}.imagenet:ImageNetProtocol',
  'clickme': f'{_PROTOCOLS}.clickme:ClickMeProtocol',
  'faithfulness': f'{_PROTOCOLS}.faithfulness:FaithfulnessProtocol',
  'clicktionary': f'{_PROTOCOLS}.clicktionary:ClicktionaryProtocol',
  'psychophysics': f'{_PROTOCOLS}.psychophysics:PsychophysicsProtocol',
}


def register(name: str, found: str | type[protocol.Protocol]):
  """Adds a protocol, before the flags are defined.

  Args:
    name: of the protocol, and so of the flag that asks for it.
    found: its class, or 'module:class'.

  Raises:
    ValueError: the name is taken.
  """
  if name in _REGISTERED:
    raise ValueError(
      f'The protocol {name!r} is registered already; expected another name '
      f'than {", ".join(_REGISTERED)}.'
    )
  _REGISTERED[name] = found


def unregister(name: str):
  """Removes a protocol that `register` added, as tests do."""
  del _REGISTERED[name]


def names() -> list[str]:
  """Returns the names of all protocols, in the order of the report."""
  return list(_REGISTERED)


def get(name: str) -> type[protocol.Protocol]:
  """Returns a protocol's class, and imports its module if necessary.

  Args:
    name: one of `names()`, or that of a variant such as
      'clickme.smoothgrad_squared', see `Protocol.variant`.

  Raises:
    ValueError: the name is unknown.
  """
  family, _, variant = name.partition('.')
  choices.require('The protocol', family, _REGISTERED)
  found = _REGISTERED[family]
  if isinstance(found, str):
    module, _, attribute = found.partition(':')
    found = getattr(importlib.import_module(module), attribute)
  return found.variant(variant) if variant else found


def protocols() -> list[type[protocol.Protocol]]:
  """Returns the classes of all protocols, in the order of the report."""
  return [get(name) for name in names()]


def option_classes() -> list[type]:
  """Returns the classes of the protocols' flags, each once."""
  return list(dict.fromkeys(found.Options for found in protocols()))
