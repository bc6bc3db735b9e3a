"""What one torch operator multiplies and accumulates: a formula, 0 by convention, or unknown.

Additions, activations, normalization, pooling, interpolation, softmax and whatever only makes or moves values count
as 0, as is usual. An operator that is neither listed as such nor has a formula is unknown: it is never taken for 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OpOverload

Formula = Callable[..., "int | None"]


def operator_name(func: OpOverload) -> str:
    """Name an operator as messages do: `_fft_r2c`, `torchvision.deform_conv2d`."""
    return str(func.overloadpacket).removeprefix("aten.")


def is_free(func: Any) -> bool:
    """Whether an operator multiplies nothing, by the usual convention."""
    if not isinstance(func, OpOverload):
        return not isinstance(func, HigherOrderOperator)  # operator.getitem and arithmetic on sizes
    namespace, name = func.namespace, _bare(func)
    if namespace != "aten":
        return name in FREE_ELSEWHERE.get(namespace, ())
    if name in FORMULAS or name in UNCOUNTED or name in FREE:
        return name in FREE
    if is_composite(func):
        return False  # what it is made of tells
    moves = any(r.alias_info is not None for r in func._schema.returns)  # a view, or in place
    tags = (torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.core)
    return moves or any(tag in func.tags for tag in tags) or name.endswith("_copy")


def is_composite(func: Any) -> bool:
    """Whether an operator is no more than a function of others, which tell what it costs."""
    return (
        isinstance(func, OpOverload)
        and not (func.namespace == "aten" and (_bare(func) in FORMULAS or _bare(func) in FREE))
        and func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    )


def _bare(func: OpOverload) -> str:
    """An operator's name, the same for its in-place variant."""
    name = func._schema.name.partition("::")[2]
    return name.removesuffix("_") if name.removesuffix("_") in FORMULAS else name


def counted(func: OpOverload, args: Sequence[Any], result: Any) -> int | None:
    """Multiply-accumulates of one call, from the shapes of its operands and result; None when there is no formula."""
    formulas = {"aten": FORMULAS, "torchvision": TORCHVISION, "quantized": QUANTIZED}.get(func.namespace, {})
    formula = formulas.get(_bare(func))
    if formula is None:
        return None
    try:
        return formula(result, *args)
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):
        return None  # operands of another kind than the formula is for, such as nested or sparse tensors


def _product(sizes: Sequence[int]) -> int:
    return int(prod(sizes))


def _matrices(out: Any, a: Any, b: Any, *_: Any) -> int:
    """(..., n, k) by (..., k, m)."""
    return _product(a.shape) * int(b.shape[-1])


def _added_matrices(out: Any, addend: Any, a: Any, b: Any, *_: Any) -> int:
    return _matrices(out, a, b)


def _vector(out: Any, a: Any, *_: Any) -> int:
    """Every element of the matrix, or of the first vector, is multiplied once."""
    return _product(a.shape)


def _added_vector(out: Any, addend: Any, a: Any, *_: Any) -> int:
    return _product(a.shape)


def _linear(out: Any, x: Any, weight: Any, *_: Any) -> int:
    return _product(x.shape) * int(weight.shape[0])


def _convolution(out: Any, x: Any, weight: Any, *rest: Any) -> int:
    """weight (out, in/groups, kernel...), transposed (in, out/groups, kernel...)."""
    transposed = len(rest) > 4 and rest[4] is True
    return _product((x if transposed else out).shape) * _product(weight.shape[1:])


def _kernel(out: Any, x: Any, weight: Any, *_: Any) -> int:
    return _product(out.shape) * _product(weight.shape[1:])


def _attention(out: Any, query: Any, key: Any, value: Any, *_: Any) -> int:
    """query (..., s, d), key (..., l, d), value (..., l, e): s·l·d of the scores and s·l·e of the mixture."""
    return _product(query.shape[:-1]) * int(key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _self_attention(
    out: Any,
    query: Any,
    key: Any,
    value: Any,
    features: int,
    heads: int,
    qkv: Any,
    _b: Any,
    proj: Any,
    *_: Any,
) -> int:
    """query (n, s, f), key (n, l, f): the projections, and the scores and mixture of all heads."""
    (batch, tokens, _f), length = query.shape, int(key.shape[1])
    projections = batch * tokens * _product(proj.shape) + batch * (tokens + 2 * length) * features * features
    return int(projections + 2 * batch * tokens * length * features)


def _encoder_layer(
    out: Any, x: Any, features: int, heads: int, qkv: Any, _qb: Any, proj: Any, *rest: Any
) -> int:
    """x (n, s, f): attention, and the two layers of the feed-forward network."""
    batch, tokens = x.shape[:2]
    weights = sum(_product(w.shape) for w in (qkv, proj, rest[8], rest[10]))
    return int(batch * tokens * weights + 2 * batch * tokens * tokens * features)


def _recurrent(out: Any, x: Any, input_weight: Any, state_weight: Any, *_: Any) -> int:
    """x (t, n, i); weights (gates·h, i) and (gates·h, h) are read at every step."""
    return _product(x.shape[:2]) * (_product(input_weight.shape) + _product(state_weight.shape))


def _bilinear(out: Any, x: Any, weight: Any, y: Any, *_: Any) -> int | None:
    """x (n, i), weight (o, i, j), y (n, j): first x with the weight, then that with y."""
    if weight.dim() != 3 or x.dim() != 2 or y.dim() != 2:
        return None
    outputs, _i, second = weight.shape
    return int(x.shape[0]) * (_product(weight.shape) + int(outputs * second))


def _distance(out: Any, x: Any, y: Any, p: float = 2.0, *_: Any) -> int | None:
    """Euclidean: the square of each difference is accumulated; other norms multiply otherwise."""
    return _product(out.shape) * int(x.shape[-1]) if p == 2 else None


def _packed_linear(out: Any, x: Any, *_: Any) -> int:
    return _product(out.shape) * int(x.shape[-1])


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("mm", "bmm", "_int_mm", "_scaled_mm"), _matrices),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "_addmm_activation"), _added_matrices),
    **dict.fromkeys(("mv", "dot", "vdot"), _vector),
    "addmv": _added_vector,
    **dict.fromkeys(("linear", "mkldnn_linear"), _linear),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    **dict.fromkeys(
        ("mkldnn_convolution", "cudnn_convolution", "_conv_depthwise2d", "_slow_conv2d_forward",
         "slow_conv3d_forward", "slow_conv_dilated2d", "slow_conv_dilated3d"),
        _kernel,
    ),
    **dict.fromkeys(
        ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
        _attention,
    ),
    "_native_multi_head_attention": _self_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "mkldnn_rnn_layer": _recurrent,
    "_trilinear": _bilinear,
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist"), _distance),
}  # fmt: skip
TORCHVISION: dict[str, Formula] = {"deform_conv2d": _kernel}
QUANTIZED: dict[str, Formula] = dict.fromkeys(
    ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16"), _packed_linear
)

# Core operators of ATen that multiply, and that nothing here counts.
UNCOUNTED = frozenset({"_fft_r2c", "_fft_c2r", "_fft_c2c", "_pdist_forward"})

# Operators of ATen that neither a tag nor a view tells to be free: they make, move, compare, pool or sample values.
FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _aminmax _assert_async _assert_scalar
    _assert_tensor_metadata _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional
    _chunk_cat _copy_from _efficientzerotensor _embedding_bag _embedding_bag_forward_only
    _functional_assert_async _functional_assert_scalar _functional_sym_constrain_range
    _functional_sym_constrain_range_for_size _has_same_storage_numel _histogramdd_from_bin_cts _index_put_impl
    _is_all_true _is_any_true _local_scalar_dense _logcumsumexp _log_softmax _make_dep_token
    _make_per_channel_quantized_tensor _make_per_tensor_quantized_tensor _masked_softmax
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    _pack_padded_sequence _prelu_kernel _print _resize_output _safe_softmax _softmax _stack
    _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy _transform_bias_rescale_qkv _unique _unique2
    _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _weight_norm_interface
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams adaptive_max_pool2d adaptive_max_pool3d addr
    affine_grid_generator all allclose aminmax any arange argmax argmin avg_pool2d avg_pool3d bartlett_window
    batch_norm_elemt batch_norm_stats bernoulli binary_cross_entropy bincount blackman_window block_diag
    bucketize cat channel_shuffle col2im complex constant_pad_nd count_nonzero cummax cummin cumprod cumsum
    dequantize diag_embed diagonal_scatter dist embedding empty empty_like empty_permuted empty_quantized
    empty_strided equal eye fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask fft_fftfreq fft_rfftfreq flip fractional_max_pool2d
    fractional_max_pool3d full full_like gather glu grid_sampler_2d grid_sampler_3d hamming_window hann_window
    hardswish histc histogram im2col index index_add index_copy index_fill index_put index_reduce index_select
    int_repr is_same_size isin item kaiser_window kthvalue lift lift_fresh linalg__powsum linalg_cross
    linalg_vector_norm linspace log_sigmoid_forward logcumsumexp logspace logsumexp masked_scatter
    masked_select max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d mean median
    mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mkldnn_max_pool3d mode multinomial nanmedian nansum
    native_batch_norm native_dropout native_group_norm native_layer_norm native_norm new_empty
    new_empty_strided new_full new_ones new_zeros nll_loss2d_forward nll_loss_forward nonzero nonzero_static
    norm normal ones ones_like pixel_shuffle pixel_unshuffle poisson prod put q_per_channel_scales
    q_per_channel_zero_points quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic
    quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d rand rand_like randint randint_like randn
    randn_like randperm range reflection_pad1d reflection_pad2d reflection_pad3d renorm repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d resize roll rot90 rrelu_with_noise
    scalar_tensor scatter scatter_add scatter_reduce searchsorted segment_reduce select_scatter slice_scatter
    sort stack std std_mean sum sym_constrain_range sym_constrain_range_for_size sym_numel sym_size
    sym_storage_offset sym_stride take to_mkldnn topk trace tril tril_indices triu triu_indices uniform
    unique_consecutive unique_dim unsafe_split unsafe_split_with_sizes upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var
    var_mean zero zeros zeros_like _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d
    """.split()  # noqa: SIM905
)
FREE_ELSEWHERE: dict[str, frozenset[str]] = {
    "torchvision": frozenset({"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"}),
    "edgepress": frozenset({"quantize_dequantize", "dequantize", "look_up"}),
    "prims": frozenset({"convert_element_type", "device_put", "iota", "broadcast_in_dim", "view_of"}),
    "quantized": frozenset(
        {"add", "add_relu", "mul", "mul_relu", "cat", "cat_relu", "sigmoid", "hardswish", "leaky_relu", "elu",
         "celu", "batch_norm1d", "batch_norm2d", "batch_norm2d_relu", "layer_norm", "group_norm", "softmax"}
    ),
    "quantized_decomposed": frozenset(
        {"quantize_per_tensor", "quantize_per_channel", "quantize_per_token", "dequantize_per_tensor",
         "dequantize_per_channel", "dequantize_per_token", "choose_qparams", "choose_qparams_symmetric",
         "choose_qparams_per_token", "fake_quant_per_channel", "convert_element_type"}
    ),
}  # fmt: skip
