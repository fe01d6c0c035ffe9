# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Flags, --help and error messages of the commands.

How to write a command:

1. A frozen dataclass, `Options`, describes the flags. Each field made by `flag`
   defines one: its name, type, default and help. A field whose type is another
   such dataclass adds the flags of that class.
2. --help, a missing flag and a wrong flag must not wait for TensorFlow. At its
   top a command imports only the standard library, absl, `cli` and modules as
   light as these. It imports all others inside `with epy.lazy_imports():`, and
   so they load when one of their attributes is first used. They must not occur
   in annotations, base classes or constants of the module.
3. Names for `choices` come from light modules: `option_values`, or a registry.
4. `main` raises ValueError, with a message for the user, for a user's mistake.

  from etils import epy

  from official_ext.harmonization import cli

  with epy.lazy_imports():
    from official_ext.harmonization.data.records import record_reader

  @dataclasses.dataclass(frozen=True)
  class Options:
    records: str = cli.flag('', 'File of records.', path=True, required=True)
    limit: int = cli.flag(0, 'Records to read; 0 for all.', at_least=0)

  def main(options: Options):
    print(record_reader.count(options.records, options.limit))

  def run():
    cli.run(main, Options)

The command prints `<command>: <message>` for a user's mistake and exits with
code 1, without a traceback; --debug shows it. Any other error, such as a
TypeError, is a bug and keeps its traceback.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import glob
import itertools
import os
import re
import sys
import types
import typing
from typing import Any

from absl import app
from absl import flags

from official_ext.harmonization import choices
from official_ext.harmonization import mistakes
from official_ext.harmonization import resources

_MODEL_GARDEN_FLAGS = 'official.common.flags'
_FLAG = 'flag'


@dataclasses.dataclass(frozen=True)
class _Flag:
  """What a field's type and default do not say about its flag."""

  help: str
  choices: Iterable[str] | Callable[[], Iterable[str]] = ()
  at_least: float | None = None
  at_most: float | None = None
  repeated: bool = False
  path: bool = False
  required: bool = False
  aliases: Sequence[str] = ()


def flag(default: Any, help: str, **properties) -> Any:
  """Makes a field of a dataclass that is also a flag.

    size: int = cli.flag(256, 'Height and width in pixels.', at_least=8)
    limit: int | None = cli.flag(None, 'Records to read; all by default.')
    models: tuple[str, ...] = cli.flag((), 'A model.', repeated=True)
    decoder: str = cli.flag('raw', 'Format.', choices=registry.names)

  The annotation says how a value is read: bool, int, float, str, any of these
  with `| None`, or tuple[str, ...], which is a list with commas.

  Args:
    default: the value if the flag is not given.
    help: one or two sentences for --help.
    **properties: choices, the values that are allowed, or a function that
      returns them; at_least and at_most, the bounds of a number; repeated, for
      a tuple whose flag is given once for each value; path, for a path or a
      tuple of paths, which become absolute under Bazel; required; aliases,
      older names of the flag.

  Returns:
    A field for a frozen dataclass.
  """
  return dataclasses.field(
    default=default, metadata={_FLAG: _Flag(help, **properties)}
  )


def _plain_type(annotation: Any) -> Any:
  """Returns the type of a flag's value: X for X | None, tuple for a tuple."""
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
    annotation = kinds[0]
  return typing.get_origin(annotation) or annotation


def _fields(options: Any) -> Iterable[tuple[str, Any, Any, _Flag | None]]:
  """Yields name, type, default and flag of each field of a class of options."""
  annotations = typing.get_type_hints(options)
  for field in dataclasses.fields(options):
    kind = _plain_type(annotations[field.name])
    yield field.name, kind, field.default, field.metadata.get(_FLAG)


def define(options: Any, module: str = ''):
  """Defines the flags of a class of options.

  Args:
    options: a dataclass whose fields are made by `flag`.
    module: whose --help lists the flags; by default that of the command that
      is running.
  """
  module = module or sys.argv[0]
  for name, kind, default, properties in _fields(options):
    if properties is None:
      if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        define(kind, module)
      continue
    _define_one(name, kind, default, properties, module)
    if properties.required:
      flags.mark_flag_as_required(name)
    for alias in properties.aliases:
      flags.DEFINE_alias(alias, name, module_name=module)


def _define_one(name, kind, default, properties: _Flag, module: str):
  """Defines one flag of absl."""
  allowed = properties.choices
  allowed = list(allowed() if callable(allowed) else allowed)
  # An empty default would only clutter --help.
  values = (name, None if default == '' else default)
  rest: dict[str, Any] = {'help': properties.help, 'module_name': module}
  if kind in (int, float):
    define_number = flags.DEFINE_integer if kind is int else flags.DEFINE_float
    define_number(
      *values,
      lower_bound=properties.at_least,
      upper_bound=properties.at_most,
      **rest,
    )
  elif kind is tuple and not properties.repeated:
    flags.DEFINE_list(name, list(default or ()) or None, **rest)
  elif kind is tuple and allowed:
    flags.DEFINE_multi_enum(name, list(default or ()) or None, allowed, **rest)
  elif kind is tuple:
    flags.DEFINE_multi_string(name, list(default or ()) or None, **rest)
  elif allowed:
    flags.DEFINE_enum(*values, enum_values=allowed, **rest)
  elif kind in (bool, str):
    (flags.DEFINE_bool if kind is bool else flags.DEFINE_string)(
      *values, **rest
    )
  else:
    raise TypeError(f'{name}: no flag has values of type {kind}')


def parsed(options: Any) -> Any:
  """Returns an instance of a class of options with the values of the flags.

  Args:
    options: a dataclass whose flags `define` has defined.

  Raises:
    ValueError: a flag was given under two names.
  """
  values = {}
  for name, kind, default, properties in _fields(options):
    if properties is None:
      if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        values[name] = parsed(kind)
      continue
    _refuse_both_names(name, properties.aliases)
    value: Any = flags.FLAGS[name].value
    if value is None:
      value = default
    elif kind is tuple:
      value = tuple(value)
    if properties.path and value:
      if isinstance(value, tuple):
        value = tuple(map(resources.working_path, value))
      else:
        value = resources.working_path(value)
    values[name] = value
  return options(**values)


def _refuse_both_names(name: str, aliases: Sequence[str]):
  """Raises ValueError if a flag was given under two of its names."""
  for alias in aliases:
    # A value that is given under the alias also counts for the flag itself.
    of_alias = flags.FLAGS[alias].present
    if of_alias and flags.FLAGS[name].present > of_alias:
      raise ValueError(
        f'--{name} and --{alias} are the same flag; expected one of them. '
        f'Remove --{alias}.'
      )


def _is_given(name: str) -> bool:
  """Whether the user gave a flag, under its name or an older one."""
  if name not in flags.FLAGS:
    return False  # `main` was called by other code.
  # absl does not count a flag as present that was given by an alias.
  found = flags.FLAGS[name]
  return bool(found.present) or found.value != found.default


def without_effect(unused: Iterable[tuple[str, Sequence[str]]]) -> str:
  """Names flags that were given but have no effect.

    without_effect([('without --clicks', ('min_clicks', 'blur'))])

  Args:
    unused: pairs of a reason, which ends the sentence "--x has no effect", and
      the names of the flags that it holds for.

  Returns:
    A sentence about the first pair with a flag that was given; '' if none was.
  """
  for why, names in unused:
    given = [f'--{name}' for name in names if _is_given(name)]
    if given:
      return (
        f'{", ".join(given)} {"has" if len(given) == 1 else "have"} no '
        f'effect {why}. Remove {"it" if len(given) == 1 else "them"}, or '
        'change the other flags.'
      )
  return ''


def refuse_without_effect(unused: Iterable[tuple[str, Sequence[str]]]):
  """Raises ValueError if a flag was given that has no effect.

  Args:
    unused: as for `without_effect`.
  """
  found = without_effect(unused)
  if found:
    raise ValueError(found)


def guarded(
  main: Callable[[Sequence[str]], object],
  command: str,
  resumes: bool = True,
  debug: bool = False,
):
  """Wraps `main` so that a user's mistake ends the command with one sentence.

  Args:
    main: takes the command's arguments.
    command: name of the command, with which the sentence begins.
    resumes: whether the same command resumes after Ctrl-C.
    debug: whether errors keep their traceback.

  Returns:
    A function like `main`. It raises SystemExit: with the sentence, for which
    the exit code is 1, or with the code 130 for Ctrl-C.
  """

  def run_main(argv):
    try:
      return main(argv)
    except KeyboardInterrupt:
      if debug:
        raise
      print(
        f'{command}: interrupted.'
        + ' Run the same command again to resume.' * resumes,
        file=sys.stderr,
      )
      raise SystemExit(130) from None
    except BrokenPipeError:
      # The process that read our output has ended, as `head` does. Python
      # would fail again when it flushes stdout at exit.
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
      raise SystemExit(1) from None
    except Exception as e:
      if debug or not isinstance(e, mistakes.types()):
        raise
      raise SystemExit(f'{command}: {mistakes.sentence(e)}') from None

  return run_main


def _flag_error(error: flags.Error, known: Sequence[str]) -> str:
  """Describes what is wrong with a flag."""
  if isinstance(error, flags.UnrecognizedFlagError):
    near = choices.nearest(error.flagname, known)
    return f'--{error.flagname} is not a flag of this command' + (
      f'; did you mean --{near}?' if near else '. --help lists its flags.'
    )
  message = ' '.join(str(error).split())
  # Python's words for a text that is not a number.
  number = re.fullmatch(
    r'flag --(\w+)=(.*): (?:invalid literal|could not convert|invalid .*float)'
    r'.*',
    message,
  )
  if number and number[1] in flags.FLAGS:
    expected = flags.FLAGS[number[1]].parser.syntactic_help
    return f'--{number[1]} is {number[2]!r}; expected {expected}.'
  missing = re.findall(
    r'Flag --(\w+) must have a value other than None', message
  )
  if missing:
    return (
      ', '.join(f'--{name}' for name in missing)
      + ' must be given. --help describes it.'
    )
  return message.removeprefix('flag ')


def _show_help(doc: str):
  """Prints the documentation and the flags of a command."""
  print(
    f'{doc}\nflags:\n{flags.FLAGS.main_module_help()}\n\n'
    'Try --helpfull to get a list of all flags.'
  )


def _parser(command: str, doc: str, takes_arguments: bool):
  """Makes the parser of a command's flags."""

  def parse(argv):
    options = itertools.takewhile(lambda a: a != '--', argv[1:])
    if {'-h', '--help', '-help'} & {*options}:
      # absl's --help describes the file that was started, and exits with 1.
      _show_help(doc)
      raise SystemExit(0)
    known = [f.name for f in flags.FLAGS.get_key_flags_for_module(argv[0])]
    try:
      rest = flags.FLAGS(argv)
    except SystemExit:
      raise SystemExit(0) from None  # --helpfull, which absl calls a failure.
    except flags.Error as e:
      raise SystemExit(f'{command}: {_flag_error(e, known)}') from None
    if rest[1:] and not takes_arguments:
      raise SystemExit(
        f'{command}: {rest[1]!r} is not a flag; expected '
        '--NAME=VALUE. --help lists the flags.'
      )
    return rest

  return parse


def _hide_start_messages():
  """Sets TensorFlow's log level, unless the user has done so.

  Its libraries log at start-up. Without a GPU they also log an error, that
  CUDA's cuInit failed, which only the level that hides all errors hides.
  Errors that stop a command are exceptions, whatever the level.
  """
  has_gpu = bool(glob.glob('/dev/nvidia[0-9]*'))
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2' if has_gpu else '3')


def run(
  main: Callable[..., object],
  options: type | str,
  *,
  name: str = '',
  flags_of: Sequence[str] = (),
  takes_arguments: bool = False,
  resumes: bool = True,
):
  """Runs a command.

  Args:
    main: is called with the options, and with the list of the other arguments
      if the command takes any. The docstring of its module is shown by --help.
    options: class of the options. Or the name of the command's module if its
      flags are already defined; `main` is then called with the arguments, of
      which the first is the program.
    name: of the command, for its messages; by default that of its file.
    flags_of: modules whose flags --help lists, too.
    takes_arguments: whether there may be arguments that are not flags.
    resumes: whether the same command resumes after Ctrl-C.
  """
  _hide_start_messages()
  module = options if isinstance(options, str) else main.__module__
  own = sys.modules[module]
  name = name or os.path.splitext(os.path.basename(own.__file__ or ''))[0]
  if not isinstance(options, str):
    define(options)
  flags.DEFINE_bool(
    'debug', False, 'Show the traceback of an error.', module_name=module
  )
  # --help lists the flags of the file that was started; a command is started
  # with `python -m`, through a script, and through train.py.
  for other in (module, _MODEL_GARDEN_FLAGS, *flags_of):
    for key_flag in flags.FLAGS.get_key_flags_for_module(other):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], key_flag)

  def call(argv):
    if isinstance(options, str):
      return main(argv)
    arguments = (argv[1:],) if takes_arguments else ()
    return main(parsed(options), *arguments)

  app.run(
    lambda argv: guarded(call, name, resumes, flags.FLAGS.debug)(argv),
    flags_parser=_parser(name, own.__doc__ or '', takes_arguments),
  )
