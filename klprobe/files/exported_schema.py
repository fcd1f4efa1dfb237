"""The schema of a `torch.export` file, position by position: torch's own schema 8, with a type of klprobe's at every place.

Each table below lists the keys of one of torch's records and what stands there. What torch gets is built from what was parsed;
a position of free text is written anew as empty, and what is not listed makes the file be refused: programs within programs,
custom classes, pickles, effect tokens, outputs that need a class.
"""

from __future__ import annotations

import json
from typing import Any

from klprobe.files.exported_operators import WORDS, operator
from klprobe.files.exported_sizes import is_symbol, size, symbol_name
from klprobe.files.exported_values import (
    Parser,
    Refused,
    argument_name,
    boolean,
    emptied,
    equation,
    finite,
    identifier,
    integer,
    label,
    listed,
    mapped,
    matching,
    number,
    one_of,
    optional,
    record,
    union,
    weight_name,
)

BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2} | {
    28: 2, 29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8,
}  # fmt: skip
"""Numbers with which torch names the types of tensors, and the number of bytes of an element."""
DEEPEST = 10
"""Largest depth of nested tuples that an encoder may return."""

# Scalars -----------------------------------------------------------------------------------------------------------------

whole = integer(-(1 << 63), (1 << 63) - 1)
natural = integer(0, (1 << 63) - 1)
dtype = one_of(*BYTES)
layout = one_of(7)
"""The dense layout; sparse tensors are refused."""
memory_format = one_of(1, 2, 3, 4)
device = record({"type": one_of("cpu", "cuda", "mps", "xpu")}, {"index": optional(integer(0, 127))})


def word(value: Any) -> str:
    """A text argument of an operator: one of the few modes, or an equation of einsum."""
    return str(one_of(*WORDS)(value) if type(value) is str and value in WORDS else equation(value))


# Sizes -------------------------------------------------------------------------------------------------------------------

hint = optional(union({"as_int": whole, "as_bool": boolean, "as_float": finite}))
expression = record({"expr_str": size}, {"hint": hint})
sym_int = union({"as_expr": expression, "as_int": whole})
sym_float = union({"as_expr": expression, "as_float": number})
sym_bool = union({"as_expr": expression, "as_bool": boolean})


def _tensor_meta(length: Parser) -> Parser:
    return record(
        {
            "dtype": dtype,
            "sizes": listed(length, most=64),
            "requires_grad": boolean,
            "device": device,
            "strides": listed(length, most=64),
            "storage_offset": length,
            "layout": layout,
        }
    )


# Arguments of operators --------------------------------------------------------------------------------------------------

tensor = record({"name": identifier})
named_int = union({"as_name": identifier, "as_int": whole})
named_float = union({"as_name": identifier, "as_float": number})
named_bool = union({"as_name": identifier, "as_bool": boolean})
optional_tensor = union({"as_tensor": tensor, "as_none": boolean})
SINGLE: dict[str, Parser] = {
    "as_none": boolean,
    "as_tensor": tensor,
    "as_int": whole,
    "as_float": number,
    "as_bool": boolean,
    "as_sym_int": named_int,
    "as_sym_float": named_float,
    "as_sym_bool": named_bool,
}
single = union(SINGLE)
argument = union(
    {
        **SINGLE,
        "as_tensors": listed(tensor),
        "as_ints": listed(whole),
        "as_floats": listed(number),
        "as_bools": listed(boolean),
        "as_string": word,
        "as_sym_ints": listed(named_int),
        "as_sym_floats": listed(named_float),
        "as_sym_bools": listed(named_bool),
        "as_scalar_type": dtype,
        "as_memory_format": memory_format,
        "as_layout": layout,
        "as_device": device,
        "as_optional_tensor": optional_tensor,
        "as_optional_tensors": listed(optional_tensor),
        "as_complex": record({"real": finite, "imag": finite}),
    }
)
_kind = {"kind": optional(one_of(0, 1, 2))}
_argument = record({"name": argument_name, "arg": argument}, _kind)
_message = record({"name": argument_name, "arg": emptied({"as_string": "does not hold"})}, _kind)


def named_argument(value: Any) -> dict[str, Any]:
    """An argument with its name; the text of an assertion is written anew."""
    is_message = type(value) is dict and value.get("name") == "assert_msg"
    return dict((_message if is_message else _argument)(value))


# The graph ---------------------------------------------------------------------------------------------------------------

_node = record(
    {
        "target": operator,
        "inputs": listed(named_argument, most=10_000),
        "outputs": listed(argument, most=10_000),
        "metadata": emptied({}),
    },
    {"is_hop_single_tensor_return": emptied(None), "name": optional(identifier)},
)


def node(value: Any) -> dict[str, Any]:
    """One call of an operator. Arithmetic of Python takes no names, and torch would write them into source."""
    parsed = dict(_node(value))
    if not parsed["target"].startswith("torch.ops."):
        for given in parsed["inputs"]:
            given.update(name="", kind=1)
    return parsed


graph = record(
    {
        "inputs": listed(single),
        "outputs": listed(single),
        "nodes": listed(node),
        "tensor_values": mapped(identifier, _tensor_meta(sym_int)),
        "sym_int_values": mapped(identifier, sym_int),
        "sym_bool_values": mapped(identifier, sym_bool),
    },
    {
        "is_single_tensor_return": one_of(False),
        "custom_obj_values": mapped(one_of(), emptied(None)),
        "sym_float_values": mapped(identifier, sym_float),
    },
)

# What is an input, a weight, an output -----------------------------------------------------------------------------------

constant = union({"as_none": boolean, "as_int": whole, "as_float": number, "as_bool": boolean})
input_spec = union(
    {
        "user_input": record({"arg": single}),
        "parameter": record({"arg": tensor, "parameter_name": weight_name}),
        "buffer": record({"arg": tensor, "buffer_name": weight_name, "persistent": boolean}),
        "tensor_constant": record({"arg": tensor, "tensor_constant_name": weight_name}),
        "constant_input": record({"name": identifier, "value": constant}),
    }
)
output_spec = union(
    {
        "user_output": record({"arg": single}),
        "buffer_mutation": record({"arg": tensor, "buffer_name": weight_name}),
        "parameter_mutation": record({"arg": tensor, "parameter_name": weight_name}),
        "user_input_mutation": record({"arg": tensor, "user_input_name": identifier}),
    }
)
signature = record({"input_specs": listed(input_spec), "output_specs": listed(output_spec)})

# Nesting of inputs and outputs -------------------------------------------------------------------------------------------

_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def _tree(key: Parser) -> Parser:
    """Tuples, lists and dicts with keys of one type, as a string of JSON; no class of any kind."""

    def parse(value: Any) -> str:
        protocol, root = _pair(_json(value))
        return json.dumps([integer(1, 1)(protocol), _branch(root, key, 0)])

    return parse


def _branch(value: Any, key: Parser, depth: int) -> dict[str, Any]:
    if value == _LEAF:
        return _LEAF
    if depth > DEEPEST:
        raise Refused("its inputs or outputs are nested too deeply")
    parsed = record(
        {
            "type": one_of("builtins.tuple", "builtins.list", "builtins.dict"),
            "context": lambda context: _json(context),
            "children_spec": listed(lambda child: _branch(child, key, depth + 1), most=10_000),
        }
    )(value)
    if parsed["type"] == "builtins.dict":
        keys = listed(key, most=10_000)(parsed["context"])
        if len(set(keys)) != len(parsed["children_spec"]) or len(keys) != len(set(keys)):
            raise Refused("a dict among its inputs or outputs has not one value for each key")
        return parsed | {"context": json.dumps(keys)}
    return parsed | {"context": "null"}


def _json(value: Any) -> Any:
    if type(value) is not str or len(value) > 1_000_000:
        raise Refused("a structure of inputs or outputs is no short text of JSON")
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Refused("a structure of inputs or outputs is no JSON") from None


def _pair(value: Any) -> tuple[Any, Any]:
    if type(value) is not list or len(value) != 2:
        raise Refused("a structure of inputs or outputs is no pair")
    return value[0], value[1]


call_signature = record(
    {"inputs": emptied([]), "outputs": emptied([]), "in_spec": _tree(identifier), "out_spec": _tree(label)},
    {"forward_arg_names": emptied(None)},
)
_root_call = record({"fqn": one_of("")}, {"signature": call_signature})


def module_calls(value: Any) -> list[Any]:
    """The call of the whole program; those of its modules serve only to take it apart again."""
    return listed(_root_call)(value[:1] if type(value) is list else value)


_bounds = mapped(symbol_name, record({"min_val": optional(whole), "max_val": optional(whole)}))


def bounds(value: Any) -> dict[Any, Any]:
    """Bounds of the sizes that may vary; those of sizes computed from them, as in `s0 + 1`, follow and are left out."""
    if type(value) is not dict:
        raise Refused("the bounds of its sizes are no table")
    return dict(_bounds({name: bound for name, bound in value.items() if is_symbol(name)}))


# Documents ---------------------------------------------------------------------------------------------------------------

program = record(
    {
        "graph_module": record(
            {"graph": graph, "signature": signature, "module_call_graph": module_calls},
            {"metadata": emptied({}), "treespec_namedtuple_fields": emptied({})},
        ),
        "opset_version": mapped(one_of("aten"), integer(0, 10_000)),
        "range_constraints": bounds,
        "schema_version": record({"major": integer(0, 10_000), "minor": integer(0, 10_000)}),
    },
    {
        "verifiers": listed(one_of("TRAINING", "ATEN", ""), most=10),
        "torch_version": matching(r"[0-9]+\.[0-9]+[A-Za-z0-9.+-]*", "version of torch", longest=60),
        "guards_code": emptied([]),
    },
)
"""Content of models/model.json."""


def _payloads(file_name: str) -> Parser:
    stored = record(
        {
            "path_name": matching(file_name, "file of a tensor"),
            "is_param": boolean,
            "use_pickle": one_of(False),
            "tensor_meta": _tensor_meta(union({"as_int": natural})),
        }
    )
    return record({"config": mapped(weight_name, stored)})


weights = _payloads("weight_[0-9]{1,6}")
"""Content of data/weights/model_weights_config.json, which says which file holds which parameter or buffer."""
constants = _payloads("tensor_[0-9]{1,6}")
"""Content of data/constants/model_constants_config.json."""
