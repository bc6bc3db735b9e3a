"""What one ONNX node multiplies and accumulates: a formula on the sizes of its tensors, 0 by convention, or unknown.

Additions, activations, normalization, pooling, interpolation, softmax and whatever only makes or moves values count
as 0, as is usual. An operator that is neither listed as such nor has a formula is unknown: it is never taken for 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
STANDARD = ("", "ai.onnx")
CLASSICAL = "ai.onnx.ml"
MICROSOFT = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")


class UnknownSizeError(Exception):
    """A tensor whose size cannot be known."""


@dataclass(frozen=True)
class Sized:
    """A node with the sizes of its tensors; UnknownSizeError where one is asked for that is not known."""

    node: onnx.NodeProto
    shapes: Shapes

    def input(self, index: int) -> Shape:
        """The shape of the input at `index`."""
        return self._shape(self.node.input, index)

    def output(self) -> Shape:
        """The shape of the first output."""
        return self._shape(self.node.output, 0)

    def has(self, index: int) -> bool:
        """Whether the optional input at `index` is given."""
        return len(self.node.input) > index and bool(self.node.input[index])

    def attribute(self, name: str, default: Any = 0) -> Any:
        """An attribute's value."""
        from onnx import helper

        found = next((a for a in self.node.attribute if a.name == name), None)
        return helper.get_attribute_value(found) if found is not None else default

    def _shape(self, names: Any, index: int) -> Shape:
        if len(names) <= index or names[index] not in self.shapes:
            raise UnknownSizeError
        return self.shapes[names[index]]


Formula = Callable[[Sized], "int | None"]


def is_free(node: onnx.NodeProto) -> bool:
    """Whether an operator multiplies nothing, by the usual convention."""
    if node.domain in STANDARD:
        return node.op_type in FREE
    if node.domain == CLASSICAL:
        return node.op_type in FREE_CLASSICAL
    return node.domain in MICROSOFT and node.op_type in FREE | FREE_MICROSOFT


def is_free_type(op_type: str) -> bool:
    """Whether a runtime's layer multiplies nothing, going by the name of its operator alone."""
    return op_type in FREE or op_type in FREE_MICROSOFT or op_type in FREE_CLASSICAL


def formula_of(node: onnx.NodeProto) -> Formula | None:
    """The formula of an operator, None when there is none."""
    if node.domain in STANDARD:
        return FORMULAS.get(node.op_type)
    if node.domain == CLASSICAL:
        return CLASSICAL_FORMULAS.get(node.op_type)
    return MICROSOFT_FORMULAS.get(node.op_type) if node.domain in MICROSOFT else None


def _convolution(weight: int) -> Formula:
    """Weight (out, in/groups, kernel...): each output value sums over all but its first axis."""
    return lambda n: prod(n.output()) * prod(n.input(weight)[1:])


def _transposed_convolution(weight: int) -> Formula:
    """Weight (in, out/groups, kernel...): each input value is spread over all but its first axis."""
    return lambda n: prod(n.input(0)) * prod(n.input(weight)[1:])


def _product(n: Sized) -> int:
    """(..., n, k) by (..., k, m)."""
    return prod(n.output()) * n.input(0)[-1]


def _gemm(n: Sized) -> int:
    return prod(n.output()) * n.input(0)[0 if n.attribute("transA") else 1]


def _fused_product(n: Sized) -> int | None:
    if n.attribute("transBatchA") or n.attribute("transBatchB"):
        return None
    return prod(n.output()) * n.input(0)[-2 if n.attribute("transA") else -1]


def _packed_product(n: Sized) -> int:
    return prod(n.output()) * int(n.attribute("K"))


def _recurrent(n: Sized) -> int:
    """x (t, n, i); weights (directions, gates·h, i) and (directions, gates·h, h) are read at every step."""
    return prod(n.input(0)[:2]) * (prod(n.input(1)) + prod(n.input(2)))


def _einsum(n: Sized) -> int:
    equation = n.attribute("equation", b"").decode()
    return einsum_macs(equation, [n.input(i) for i in range(len(n.node.input))])


def _attention(n: Sized) -> int:
    """ai.onnx Attention: (n, heads, tokens, size) or (n, tokens, heads·size), with keys and values of the past."""
    query, key, value = (n.input(i) for i in range(3))
    if len(query) == 3:
        heads, kv_heads = int(n.attribute("q_num_heads")), int(n.attribute("kv_num_heads"))
        query = (query[0], heads, query[1], query[2] // heads)
        key, value = ((x[0], kv_heads, x[1], x[2] // kv_heads) for x in (key, value))
    length = key[2] + (n.input(4)[2] if n.has(4) else 0)
    return prod(query[:3]) * length * (query[3] + value[3])


def _projected_attention(past: int) -> Formula:
    """x (n, s, i), weight (i, q + k + v): the projections, s·l·q of the scores and s·l·v of the mixture."""

    def macs(n: Sized) -> int:
        (batch, tokens, features), (_, width) = n.input(0), n.input(1)
        query, _, value = n.attribute("qkv_hidden_sizes", None) or (width // 3,) * 3
        length = tokens + (n.input(past)[3] if n.has(past) else 0)
        return int(batch * tokens * (features * width + length * (query + value)))

    return macs


def _multi_head_attention(n: Sized) -> int:
    """com.microsoft: query (n, s, q), or packed (n, s, heads, 3, size); keys and values apart, packed, or cached."""
    query = n.input(0)
    batch, tokens = query[:2]
    if len(query) == 5:
        width = value = query[2] * query[4]
        length = tokens
    else:
        width, key = query[2], n.input(1)
        length = key[2] if len(key) == 4 else key[1]
        value = width
        if n.has(2):
            given = n.input(2)
            value = given[1] * given[3] if len(given) == 4 else given[2]
    length += n.input(6)[2] if n.has(6) else 0
    return batch * tokens * length * (width + value)


def _linear_model(n: Sized) -> int:
    return n.input(0)[0] * len(n.attribute("coefficients", ()))


def _distances(n: Sized) -> int:
    return prod(n.output()) * n.input(0)[-1]


def einsum_macs(equation: str, shapes: list[Shape]) -> int:
    """Multiply-accumulates of an einsum that contracts its operands pair by pair from the left, as runtimes do.

    What only one operand has and nobody else reads is summed first. A pair that shares no summed index is an outer or
    elementwise product, which counts as 0. UnknownSizeError when the equation does not fit the shapes.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise UnknownSizeError
    sizes: dict[str, int] = {}
    operands = []
    for term, shape in zip(terms, shapes, strict=True):
        labels = _labels(term, len(shape))
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
        operands.append(set(labels))
    result = set(_labels(right, 0, sizes)) if arrow else _implicit(terms, sizes)
    macs, current = 0, operands[0]
    for index, other in enumerate(operands[1:], 1):
        later = result.union(*operands[index + 1 :])
        current = {label for label in current if label in later | other}
        other = {label for label in other if label in later | current}
        summed = {label for label in current & other if label not in later and sizes[label] > 1}
        if summed:
            macs += prod(sizes[label] for label in current | other)
        current = (current | other) & later
    return macs


def _labels(term: str, rank: int, sizes: Mapping[str, int] | None = None) -> list[str]:
    """One label an axis; the axes of an ellipsis are numbered from the right, since they broadcast."""
    before, dots, after = term.partition("...")
    named = len(before) + len(after)
    # The output's has as many axes as the operands' ellipses.
    hidden = rank - named if sizes is None else sum(label.startswith(".") for label in sizes)
    if hidden < 0 or (sizes is None and not dots and hidden):
        raise UnknownSizeError
    return [*before, *(f".{i}" for i in range(hidden, 0, -1) if dots), *after]


def _implicit(terms: list[str], sizes: Mapping[str, int]) -> set[str]:
    """Without an arrow the result has the indices that appear once, and the ellipsis."""
    text = "".join(term.replace("...", "") for term in terms)
    return {label for label in sizes if label.startswith(".") or text.count(label) == 1}


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution(1),
    "Gemm": _gemm,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _product),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    "Attention": _attention,
}
MICROSOFT_FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    **dict.fromkeys(("ConvTranspose", "ConvTransposeWithDynamicPads"), _transposed_convolution(1)),
    "QLinearConvTranspose": _transposed_convolution(3),
    **dict.fromkeys(("FusedGemm", "QGemm", "GemmFloat8", "GemmFastGelu"), _gemm),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger16"), _product),
    **dict.fromkeys(("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul"), _fused_product),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _packed_product),
    "DynamicQuantizeLSTM": _recurrent,
    "Attention": _projected_attention(4),
    "QAttention": _projected_attention(8),
    "MultiHeadAttention": _multi_head_attention,
    "CDist": _distances,
}
CLASSICAL_FORMULAS: dict[str, Formula] = dict.fromkeys(("LinearClassifier", "LinearRegressor"), _linear_model)

FREE = frozenset(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Bernoulli
    BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad
    Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace
    DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity ImageDecoder
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish
    Mod Mul Multinomial Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional
    OptionalGetElement OptionalHasElement Or PRelu Pad Pow QuantizeLinear RMSNormalization RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape
    Resize ReverseSequence RoiAlign RotaryEmbedding Round Scatter ScatterElements ScatterND Selu SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh
    Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze
    StringConcat StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer
    ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905
)
FREE_MICROSOFT = frozenset(
    """
    BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BitmaskBiasDropout BitmaskDropout ComplexMul
    ComplexMulConj CropAndResize DequantizeBFP DequantizeWithOrder EmbedLayerNormalization ExpandDims FastGelu
    GatedAdd GatherBlockQuantized GemmaRotaryEmbedding GroupNorm IsAllFinite MaxpoolWithMask MulInteger MurmurHash3
    NGramRepeatBlock NhwcMaxPool QEmbedLayerNormalization QLinearAdd QLinearAveragePool QLinearConcat
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax
    QLinearWhere QOrderedGelu QOrderedLayerNormalization QuantizeBFP QuantizeWithOrder QuickGelu ReduceSumInteger
    RelativePositionBias RemovePadding ReorderInput ReorderOutput RestorePadding ScaledSiLU SkipGroupNorm
    SkipLayerNormalization SkipSimplifiedLayerNormalization UnfoldTensor
    """.split()  # noqa: SIM905
)
FREE_CLASSICAL = frozenset(
    """
    ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder
    Normalizer OneHotEncoder Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
    """.split()  # noqa: SIM905
)
