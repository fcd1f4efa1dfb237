"""Check the source in a TorchScript file, which may name operators that `.pt2` files may call, and words of the language.

torch compiles this source itself, and any operator that torch has can be called in it by its name, as a function of torch or as
a method of a tensor. Some of them do not check their arguments, and can read or write any place in memory. Therefore every
word of
the source outside its strings that is the name of an operator has to be in one of two lists.
"""

from __future__ import annotations

import re
from functools import cache

import torch

from klprobe.files.exported_operators import ATEN
from klprobe.types import InputError

LANGUAGE = frozenset(
    """
    annotate append arccos arccos_ arccosh arcsin arcsin_ arcsinh arctan arctan2 arctan_ arctanh as_tensor bin Bool
    can_cast capitalize center chr clear combinations Complex ComplexImplicit conv_depthwise3d cosine_embedding_loss
    count cpu cross_entropy_loss ctc_loss cuda data degrees dense_dim device dict dist divmod dsplit dtype element_size
    embedding_renorm embedding_renorm_ endswith EnumName EnumValue expandtabs extend fabs factorial fill_diagonal_ find
    Float FloatImplicit floordiv format frexp gamma ger get get_autocast_dtype get_device grad hash hex histogram hsplit
    id IfThenElse initial_seed insert Int IntImplicit is_autocast_cpu_enabled is_autocast_enabled is_complex is_conj
    is_contiguous is_cpu is_cuda is_floating_point is_grad_enabled is_inference is_leaf is_meta is_mkldnn is_mps is_neg
    is_nested is_nonzero is_quantized is_same_size is_scripting is_signed is_sparse is_vulkan is_xla is_xpu isalnum
    isalpha isdecimal isdigit isidentifier islower isnumeric isprintable isreal isspace istitle isupper items itemsize
    join keys layout lcm len list ljust lower lstrip manual_seed mathremainder matrix_H mH modf ModuleContainerIndex
    name nbytes ndtri nextafter nll_loss nll_loss2d nll_loss_nd nuclear_norm NumToTensor oct ord pad_sequence partition
    percentFormat pin_memory pinverse poisson_nll_loss pop popitem Print promote_types qr radians RaiseException random
    random_ range remove renorm replace requires_grad requires_grad_ result_type retain_grad retains_grad rev reverse
    rfind rindex rjust row_stack rpartition rsplit rstrip ScalarImplicit set_grad_enabled setdefault slow_conv3d
    soft_margin_loss sorted splitlines startswith storage_offset str stride StringIndex strip sum_to_size svd swapcase
    tensor thnn_conv2d title to_padded_tensor tolist trapezoid trapz triplet_margin_loss TupleIndex TupleUnpack type
    unchecked_cast unchecked_unwrap_optional Uninitialized unique_consecutive unique_dim update upper values vander
    vsplit warn zfill __contains__ __derive_index __getitem__ __iand__ __interpolate __ior__ __is__ __isnot__ __ixor__
    __not__ __range_length __round_to_zero_floordiv __upsample __upsample_bilinear __upsample_nearest
    _autocast_to_full_precision _autocast_to_reduced_precision _batch_norm_impl_index _cast_Double _cast_Float _cast_Int
    _cast_Long _get_tracing_state _infer_size _list_to_tensor _nested_tensor_from_mask
    _nested_tensor_from_mask_left_aligned _no_grad_fill_ _no_grad_normal_ _no_grad_uniform_ _no_grad_zero_
    _pack_padded_sequence _pad_packed_sequence _reshape_from_tensor _set_item _shape_as_tensor _tensor_to_list
    _unwrap_optional _upsample_lanczos2d_aa
    """.split()  # noqa: SIM905 (a text is read more easily)
)
"""Operators of lists, texts, numbers, devices and losses: none of them takes a place of memory at its word."""
NOT_OPERATORS = frozenset(
    {"fork", "awaitable", "awaitable_wait", "awaitable_nowait", "rpc_async", "rpc_sync", "rpc_remote", "wait"}
)
"""Forms of the language that start threads, or call other machines."""
SPACES = frozenset({"aten", "prim"})
"""Namespaces that operators may come from."""
STRING = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"|' + r"'(?:[^'\\\n]|\\[^\n])*'")
GETATTR = re.compile(r'getattr\(\s*[A-Za-z_][A-Za-z0-9_.]*\s*,\s*"([A-Za-z0-9_]*)"\s*\)')
"""Pattern with which torch writes access to a part whose name is a number."""
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SPACE = re.compile(r"\bops\s*\.\s*([A-Za-z_][A-Za-z0-9_]*)")
CLASSES = re.compile(rb"torch\s*\.\s*classes")


@cache
def forbidden() -> frozenset[str]:
    """Names of all operators of this torch that a source can call and that are in neither list."""
    schemas = (schema.name.split("::") for schema in torch._C._jit_get_all_schemas())
    every = {name for space, name in schemas if space in SPACES}
    return (
        frozenset(name for name in every if name not in ATEN and name.removesuffix("_") not in ATEN) - LANGUAGE | NOT_OPERATORS
    )


def check_source(label: str, entry: str, content: bytes) -> None:
    """Check one file of source.

    Args:
        label: Name of the TorchScript file, for messages.
        entry: Name of the source in it.
        content: Text of the source.
    Raises:
        InputError: a word is the name of an operator outside the lists, or torch would not write the source like this.
    """
    check_classes(label, entry, content)
    text = content.decode("latin-1")
    if '"""' in text or "'''" in text:
        raise _refused(label, entry, "has a text in triple quotes, which torch does not write")
    named: list[str] = []
    while parts := GETATTR.findall(text):  # one string may contain another
        named += parts
        text = GETATTR.sub("part", text)
    text = STRING.sub('""', text)
    if "getattr" in text or "\\" in text or "#" in text or not text.isascii():
        raise _refused(label, entry, "is not written as torch writes it")
    if spaces := set(SPACE.findall(text)) - SPACES:
        raise _refused(label, entry, f"calls operators of {min(spaces)[:40]}")
    if found := forbidden().intersection([*WORD.findall(text), *named]):
        raise _refused(label, entry, f"names {min(found)}")


def check_classes(label: str, entry: str, content: bytes) -> None:
    """Raise InputError where the content names a class that is written in C++, such as packed weights."""
    if CLASSES.search(content):
        raise _refused(label, entry, "names a class of torch's own, such as quantised weights")


def _refused(label: str, entry: str, why: str) -> InputError:
    return InputError(
        f"{label}: its program ({entry[:80]}) {why}, which klprobe does not run, because it could do more than compute: "
        "export the encoder by torch.export, or as ONNX."
    )
