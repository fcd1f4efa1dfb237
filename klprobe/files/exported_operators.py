"""Operators that a `torch.export` file may call, listed by name: those that neural networks are made of.

Torch looks a name up attribute by attribute, starting at the module `torch`: whoever writes the name chooses the function. So
the name has to be in a list. None of those listed reads or writes a file, a pickle or another process. Left out on purpose,
though networks use them: `_embedding_bag` and quantised kernels, which trust their indices, and higher-order operators (`cond`,
`map`, `wrap_with_set_grad_enabled`), which hold programs of their own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from klprobe.files.exported_values import Refused, matching

LAYERS = """
    linear bilinear addmm addbmm addmv addr baddbmm bmm mm mv matmul dot vdot inner outer einsum tensordot convolution
    _convolution _convolution_mode conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc
    batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _native_batch_norm_legit_functional _batch_norm_with_update _batch_norm_no_update _batch_norm_with_update_functional
    instance_norm group_norm native_group_norm layer_norm native_layer_norm rms_norm _fused_rms_norm _weight_norm
    _weight_norm_interface norm_except_dim dropout native_dropout alpha_dropout feature_dropout feature_alpha_dropout
    embedding one_hot lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math _native_multi_head_attention
    _transformer_encoder_layer_fwd _transform_bias_rescale_qkv _safe_softmax _masked_softmax cosine_similarity
    pairwise_distance cdist _cdist_forward pdist _pdist_forward
"""
ACTIVATIONS = """
    relu relu6 prelu _prelu_kernel leaky_relu elu selu celu gelu silu mish glu hardtanh hardswish hardsigmoid hardshrink
    softshrink softplus threshold rrelu sigmoid log_sigmoid log_sigmoid_forward tanh softmax _softmax log_softmax
    _log_softmax
"""
POOLING = """
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle im2col col2im pad _pad_enum _pad_circular constant_pad_nd reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
"""
SHAPES = """
    view view_as view_copy _unsafe_view reshape reshape_as _reshape_alias flatten unflatten ravel expand expand_as
    expand_copy repeat repeat_interleave tile broadcast_to broadcast_tensors squeeze squeeze_copy unsqueeze unsqueeze_copy
    permute permute_copy transpose transpose_copy t t_copy numpy_T mT adjoint swapaxes swapdims moveaxis movedim cat concat
    concatenate stack hstack vstack dstack column_stack split split_with_sizes split_copy split_with_sizes_copy unsafe_split
    unsafe_split_with_sizes chunk unsafe_chunk tensor_split unbind unbind_copy narrow narrow_copy select select_copy
    select_scatter slice slice_copy slice_scatter diagonal diagonal_copy diagonal_scatter as_strided as_strided_copy flip
    fliplr flipud roll rot90 unfold unfold_copy diag diag_embed diagflat tril triu tril_indices triu_indices block_diag
    meshgrid cartesian_prod contiguous atleast_1d atleast_2d atleast_3d
"""
INDEXING = """
    index index_put index_select index_add index_copy index_fill index_reduce _unsafe_index _unsafe_index_put gather scatter
    scatter_add scatter_reduce masked_fill masked_scatter masked_select take take_along_dim where nonzero argwhere
    searchsorted bucketize sort argsort msort topk kthvalue
"""
REDUCTIONS = """
    sum nansum mean nanmean prod var std var_mean std_mean norm linalg_vector_norm linalg_matrix_norm linalg_norm
    frobenius_norm amax amin aminmax max min argmax argmin any all median nanmedian mode quantile nanquantile logsumexp
    logcumsumexp cumsum cumprod cummax cummin count_nonzero bincount histc trace _is_all_true _is_any_true diff
"""
ARITHMETIC = """
    add sub rsub mul div floor_divide true_divide multiply divide subtract remainder fmod pow float_power square sqrt rsqrt
    exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 xlogy sin cos tan asin acos atan atan2 sinh cosh asinh acosh
    atanh sinc hypot erf erfc erfinv lgamma digamma polygamma mvlgamma i0 igamma igammac special_i0e special_i1 special_i1e
    special_erfcx special_entr special_ndtr special_ndtri special_log_ndtr special_xlog1py special_expm1 special_expit
    special_log_softmax special_softmax special_logsumexp special_log1p logit abs absolute neg negative positive sign sgn
    signbit copysign reciprocal floor ceil round trunc fix frac clamp clamp_min clamp_max clip maximum minimum fmax fmin
    addcmul addcdiv lerp nan_to_num deg2rad rad2deg cross linalg_cross cov corrcoef heaviside gcd ldexp bitwise_and
    bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__
    logical_and logical_or logical_xor logical_not eq ne lt le gt ge equal greater greater_equal less less_equal not_equal
    isclose allclose isnan isinf isfinite isposinf isneginf isin mse_loss l1_loss smooth_l1_loss huber_loss kl_div
    binary_cross_entropy binary_cross_entropy_with_logits
"""
MATRICES = """
    det logdet slogdet _linalg_det _linalg_slogdet linalg_det linalg_slogdet linalg_cholesky linalg_cholesky_ex cholesky
    cholesky_solve cholesky_inverse linalg_inv linalg_inv_ex inverse linalg_solve linalg_solve_ex _linalg_solve_ex
    linalg_solve_triangular triangular_solve linalg_eigh _linalg_eigh linalg_eigvalsh linalg_svd _linalg_svd linalg_qr
    linalg_pinv linalg_matrix_exp matrix_exp matrix_power linalg_matrix_power linalg_multi_dot linalg_diagonal linalg_vecdot
    linalg_matmul kron chain_matmul
"""
SPECTRA = """
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
    fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq _fft_c2c _fft_c2r _fft_r2c stft istft hann_window hamming_window
    real imag complex polar angle conj _conj conj_physical _conj_physical resolve_conj resolve_neg view_as_real
    view_as_complex
"""
DRAWS = """
    rand rand_like randn randn_like randint randint_like randperm bernoulli normal normal_functional uniform exponential
    log_normal poisson multinomial _standard_gamma _sample_dirichlet binomial geometric cauchy
"""
MAKING = """
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like
    new_ones full full_like new_full fill zero eye arange linspace logspace scalar_tensor clone copy alias alias_copy detach
    detach_copy lift lift_fresh lift_fresh_copy to _to_copy type_as item _local_scalar_dense
"""
SIZES = """
    sym_size sym_stride sym_numel sym_storage_offset sym_is_contiguous size numel dim sym_constrain_range
    sym_constrain_range_for_size _functional_sym_constrain_range _functional_sym_constrain_range_for_size _assert_scalar
    _functional_assert_scalar _assert_async _functional_assert_async _assert_tensor_metadata
"""
GROUPS = (LAYERS, ACTIVATIONS, POOLING, SHAPES, INDEXING, REDUCTIONS, ARITHMETIC, MATRICES, SPECTRA, DRAWS, MAKING, SIZES)
ATEN = frozenset(name for group in GROUPS for name in group.split())
"""Names in torch.ops.aten; the form that changes its first argument, as in `relu_`, goes with each."""
PYTHON = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_operator": "add sub mul truediv floordiv mod neg pos pow eq ne lt le gt ge and_ or_ getitem",
        "math": "trunc ceil floor sqrt",
        "torch": "sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt sym_sum",
    }.items()
    for name in names.split()
)
"""Arithmetic on sizes."""
MODES = """
    none tanh floor trunc mean sum prod amax amin multiply add constant reflect replicate circular same valid zeros border
    bilinear nearest bicubic linear lower higher midpoint left right ij xy fro nuc reduced complete r U L
"""
WORDS = frozenset(MODES.split())
"""Strings that operators take as an argument."""

_ATEN_TARGET = matching(r"torch\.ops\.aten\.[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*", "operator")


def operator(value: Any) -> str:
    """Full name of an operator in the list, in an overload that this torch has."""
    if type(value) is str and value in PYTHON:
        return value
    if type(value) is str and value.startswith("torch.ops.higher_order."):
        raise Refused("a program within the program, from no_grad, autocast or cond; call run_decompositions() before saving")
    return _listed(str(_ATEN_TARGET(value)))


@lru_cache(maxsize=1000)
def _listed(target: str) -> str:
    name, overload = target.split(".")[3:]
    if name not in ATEN and name.removesuffix("_") not in ATEN:
        raise Refused(f"{target} is no operator of the networks that klprobe runs")
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or overload not in packet.overloads():
        raise Refused(f"{target} is no operator of this torch")
    return target
