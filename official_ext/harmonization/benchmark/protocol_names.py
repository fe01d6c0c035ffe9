# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Names of protocols and of their variants, such as further explainers."""


def family(name: str) -> str:
  """Returns the name of the protocol that a protocol is a variant of.

    family('clickme.smoothgrad_squared'), family('clickme')  # Both 'clickme'.

  Args:
    name: of a protocol.
  """
  return name.partition('.')[0]


def is_variant(name: str) -> bool:
  """Whether the name is that of a variant."""
  return family(name) != name
