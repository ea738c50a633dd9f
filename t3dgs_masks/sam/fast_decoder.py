"""SAM2's mask decoder with the same result in fewer operations, for CPUs.

A handful of tokens (objects and prompts) look at the tokens of an image, and the other way round.
What the stock network does for that with every token of the image can be done with the few:

- Scores are (IWk)(TWq)', per head. As I(TWq Wk')' they need no keys of the image: each head of each
  token looks at the image through the head's own map.
- Values are a linear map of what is attended to, and softmax weights add up to one, so the map can
  be applied after the weighted sum, to a few tokens again. Where the image looks at the tokens, the
  maps of values and of the result are one for each head and token.

Masks are then enlarged by maps that see one pixel each, so the pixels need not be where they belong
before all is done, and their channels stay beside each other.

Nothing is approximated: results differ by the order of float32 sums (about 1e-6).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from t3dgs_masks.sam.fast_linear import PackedLinear
from t3dgs_masks.sam.fused_norms import over_last
from t3dgs_masks.sam.stand_ins import StandIns


def fast_decoder(decoder: nn.Module) -> StandIns:
    """A mask decoder, to be computed so for a while.

    Args:
        decoder: SAM2's, on a CPU in float32, in eval mode, whose weights do not change any more.
            Another network stays as it is.
    """
    if not isinstance(decoder, MaskDecoder) or not _fits(decoder):
        return StandIns([])
    return StandIns([(decoder, "predict_masks", _FastDecoder(decoder))])


def _fits(decoder: MaskDecoder) -> bool:
    """Whether it is put together as in all official configurations."""
    transformer, upscaling = decoder.transformer, list(decoder.output_upscaling)
    kinds = [nn.ConvTranspose2d, LayerNorm2d, nn.GELU, nn.ConvTranspose2d, nn.GELU]
    doubling = [part for part in upscaling if isinstance(part, nn.ConvTranspose2d)]
    return (
        decoder.use_high_res_features
        and decoder.pred_obj_scores
        and type(transformer) is TwoWayTransformer
        and all(type(layer) is TwoWayAttentionBlock for layer in transformer.layers)
        and [type(part) for part in upscaling] == kinds
        and all(part.kernel_size == part.stride == (2, 2) for part in doubling)
    )


class _FastDecoder:
    """Stands in for `MaskDecoder.predict_masks`."""

    def __init__(self, stock: MaskDecoder) -> None:
        self._stock = stock
        transformer: Any = stock.transformer  # TwoWayTransformer; torch's types say less
        self._layers = [_FastLayer(layer) for layer in transformer.layers]
        self._last_norm = transformer.norm_final_attn
        self._last_look = _LookAtImage(transformer.final_attn_token_to_image)
        upscaling: Any = stock.output_upscaling
        first, self._norm, _, second, _ = upscaling
        self._enlarged_once, self._enlarged_twice = _enlarging(first), _enlarging(second)
        self._hypernetworks = _SideBySideMlps(list(stock.output_hypernetworks_mlps))
        self._places: dict[tuple[int, int], Tensor] = {}  # (h, w) -> [1, h * w, C]

    def __call__(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As mask_decoder.py:MaskDecoder.predict_masks.

        Args:
            image_embeddings: [1, C, h, w] if `repeat_image`, else [B, C, h, w].
            image_pe: [1, C, h, w], always the same for one size.
            sparse_prompt_embeddings: [B, N, C].
            dense_prompt_embeddings: [B, C, h, w].
            repeat_image: whether all prompts are on the same image.
            high_res_features: [B or 1, C/8, 4h, 4w] and [B or 1, C/4, 2h, 2w].

        Returns:
            Masks [B, M, 4h, 4w] logits, their predicted IoU [B, M], mask tokens [B, M, C] and
            object scores [B, 1] logits.
        """
        stock, batch = self._stock, len(sparse_prompt_embeddings)
        own = (stock.obj_score_token, stock.iou_token, stock.mask_tokens)
        output_tokens = torch.cat([token.weight for token in own]).expand(batch, -1, -1)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)
        image = _tokens_of(image_embeddings) + _tokens_of(_once(dense_prompt_embeddings))
        found, image = self._transformed(tokens, image, self._places_of(image_pe))
        mask_tokens = found[:, 2 : 2 + stock.num_mask_tokens]
        size = (image_embeddings.shape[2], image_embeddings.shape[3])
        pixels = self._enlarged(image.unflatten(1, size), high_res_features)
        masks = self._hypernetworks(mask_tokens) @ pixels.flatten(1, -2).mT
        quality = stock.iou_prediction_head(found[:, 1])
        return _arranged(masks, size), quality, mask_tokens, stock.pred_obj_score_head(found[:, 0])

    def _transformed(self, tokens: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, C] tokens and [B or 1, T, C] image -> [B, N, C] and [B, T, C], as
        transformer.py:TwoWayTransformer.forward.

        Args:
            tokens: what they are is also where they are.
            image: one for all of them, or one for each.
            places: [1, T, C].
        """
        given = tokens
        for layer in self._layers:
            tokens, image = layer(tokens, image, given, places)
        found = self._last_look(tokens + given, image + places, image)
        return self._last_norm(tokens + found), image

    def _enlarged(self, image: Tensor, finer: list[Tensor]) -> Tensor:
        """[B, h, w, C] -> [B, h, w, 2, 2, 2, 2, C/8], 16 pixels for each, as
        mask_decoder.py:MaskDecoder.predict_masks.

        Args:
            image: the image, after the transformer.
            finer: as `high_res_features`.
        """
        finest, fine = finer
        larger = self._enlarged_once(image).add_(_cut(_once(fine), 1))
        larger = larger.unflatten(-1, (2, 2, -1))  # [B, h, w, 2, 2, C/4]
        normed = F.gelu(over_last(self._norm, larger))
        larger = self._enlarged_twice(normed).add_(_cut(_once(finest), 2))
        return F.gelu(larger.unflatten(-1, (2, 2, -1)))

    def _places_of(self, image_pe: Tensor) -> Tensor:
        size = (image_pe.shape[2], image_pe.shape[3])
        if size not in self._places:
            self._places[size] = _tokens_of(image_pe).contiguous()
        return self._places[size]


class _FastLayer:
    """A `TwoWayAttentionBlock`."""

    def __init__(self, stock: TwoWayAttentionBlock) -> None:
        self._stock = stock
        self._look_at_image = _LookAtImage(stock.cross_attn_token_to_image)
        self._look_at_tokens = _LookAtTokens(stock.cross_attn_image_to_token)

    def __call__(
        self, tokens: Tensor, image: Tensor, given: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `_FastDecoder._transformed`, with the tokens as they were `given` at first."""
        stock = self._stock
        if stock.skip_first_layer_pe:
            tokens = stock.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            placed = tokens + given
            tokens = tokens + stock.self_attn(q=placed, k=placed, v=tokens)
        tokens = stock.norm1(tokens)
        placed_image = image + places
        tokens = stock.norm2(tokens + self._look_at_image(tokens + given, placed_image, image))
        tokens = stock.norm3(tokens + stock.mlp(tokens))
        image = self._look_at_tokens.added_to(image, placed_image, tokens + given, tokens)
        return tokens, stock.norm4(image)


class _LookAtImage:
    """Attention of tokens to an image."""

    def __init__(self, attention: Attention) -> None:
        out, value = attention.out_proj, attention.v_proj
        self._queries = PackedLinear.of(attention.q_proj)
        self._keys = _scaled(attention) * _of_heads(attention, attention.k_proj)  # [h, d, C]
        # The keys' bias adds the same to all scores of a token, which softmax takes away.
        self._values = _of_heads(attention, value).mT  # [h, C, d]
        self._out = PackedLinear(out.weight.detach(), _constant(out, value.bias))
        self._heads = attention.num_heads

    def __call__(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, N, C] tokens, [B or 1, T, C] of the image twice -> [B, N, C]."""
        batch, count, _ = tokens.shape
        looks = _mapped(self._queries(tokens), self._keys)
        weights = torch.softmax(looks @ keys.mT, dim=-1)  # [B, h * N, T]
        seen = (weights @ values).view(batch, self._heads, count, -1)
        by_head = seen.transpose(0, 1).flatten(1, 2) @ self._values  # [h, B * N, d]
        together = by_head.transpose(0, 1).reshape(batch, count, -1)
        return self._out(together)


class _LookAtTokens:
    """Attention of an image to tokens."""

    def __init__(self, attention: Attention) -> None:
        key, query, out = attention.k_proj, attention.q_proj, attention.out_proj
        self._heads = attention.num_heads
        self._keys = PackedLinear.of(key)
        self._queries = _scaled(attention) * _of_heads(attention, query)  # [h, d, C]
        # What the queries' bias adds to the score of a token.
        bias = _scaled(attention) * query.bias.detach().view(self._heads, 1, -1)  # [h, 1, d]
        weight = bias @ _of_heads(attention, key)  # [h, 1, C]
        constant = bias @ key.bias.detach().view(self._heads, -1, 1)
        self._offsets = PackedLinear(weight[:, 0].contiguous(), constant.flatten())
        self._values = PackedLinear.of(attention.v_proj)
        self._out = out.weight.detach().T.unflatten(0, (self._heads, -1)).contiguous()  # [h, d, C]
        # The weights of each head add up to one.
        self._bias = out.bias.detach() / self._heads

    def added_to(self, image: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B or 1, T, C] of the image twice, [B, N, C] of the tokens twice -> [B, T, C]: the image
        and what it saw, where the image was if there is one for each."""
        batch, count, _ = keys.shape
        looks = _mapped(self._keys(keys), self._queries)
        offsets = self._offsets(keys).transpose(1, 2).reshape(batch, -1, 1)  # [B, h * N, 1]
        scores = torch.baddbmm(offsets, looks, queries.mT.expand(batch, -1, -1))
        weights = torch.softmax(scores.view(batch * self._heads, count, -1), dim=1)
        results = _mapped(self._values(values), self._out).add_(self._bias)
        weights = weights.view_as(scores).mT  # [B, T, h * N]
        if len(image) == batch:
            return image.baddbmm_(weights, results)
        return torch.baddbmm(image, weights, results)


class _SideBySideMlps:
    """Networks of the same shape, each for one of the mask tokens."""

    def __init__(self, mlps: list[Any]) -> None:
        layers = [list(layers) for layers in zip(*(mlp.layers for mlp in mlps), strict=True)]
        self._maps = [
            (
                torch.stack([layer.weight.detach().T for layer in alike]),  # [M, C, L]
                torch.stack([layer.bias.detach() for layer in alike])[:, None],  # [M, 1, L]
            )
            for alike in layers
        ]

    def __call__(self, tokens: Tensor) -> Tensor:
        """[B, M, C] -> [B, M, L], the first of them through the first network and so on."""
        features = tokens.transpose(0, 1)
        for index, (weight, bias) in enumerate(self._maps):
            if index > 0:
                features = F.relu(features, inplace=True)
            features = torch.baddbmm(bias, features, weight)
        return features.transpose(0, 1)


def _of_heads(attention: Attention, layer: nn.Linear) -> Tensor:
    """[h, d, C], the weight of a layer by heads."""
    return layer.weight.detach().unflatten(0, (attention.num_heads, -1))


def _scaled(attention: Attention) -> float:
    return (attention.internal_dim // attention.num_heads) ** -0.5


def _constant(layer: nn.Linear, features: Tensor) -> Tensor:
    """[C] -> [L] bias of a layer with a constant part of its features in it."""
    whole = layer.weight.detach().double() @ features.detach().double()
    return (whole + layer.bias.detach().double()).float()


def _mapped(features: Tensor, maps: Tensor) -> Tensor:
    """[B, N, h * d] by [h, d, C] -> [B, h * N, C], every head by its own map."""
    batch, count, _ = features.shape
    heads, per_head, channels = maps.shape
    by_head = features.view(batch * count, heads, per_head).transpose(0, 1)
    mapped = torch.bmm(by_head, maps).view(heads, batch, count, channels)
    return mapped.transpose(0, 1).reshape(batch, heads * count, channels)


def _enlarging(layer: nn.Module) -> PackedLinear:
    """[..., C] -> [..., 4 * L]: a pixel's four, line by line, of a convolution that makes them."""
    assert isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
    bias = None if layer.bias is None else layer.bias.detach().repeat(4)
    return PackedLinear(weight.contiguous(), bias)


def _tokens_of(image: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return image.flatten(2).transpose(1, 2)


def _once(features: Tensor) -> Tensor:
    """[B, ...] -> [1, ...] where all are the same, being expanded from one."""
    return features[:1] if features.stride(0) == 0 else features


def _cut(image: Tensor, times: int) -> Tensor:
    """The pixels that one is enlarged to beside each other: [B, L, H, W] -> [B, H/2, W/2, 4 * L],
    or [B, H/4, W/4, 2, 2, 4 * L] if it is enlarged twice."""
    cells = image.permute(0, 2, 3, 1)
    if times == 1:
        cells = cells.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B h 2 w 2 L
        return cells.transpose(2, 3).flatten(3)
    cells = cells.unflatten(2, (-1, 2, 2)).unflatten(1, (-1, 2, 2))  # B h 2 2 w 2 2 L
    return cells.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5)


def _arranged(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, M, h * w * 16] -> [B, M, 4h, 4w]."""
    cells = masks.unflatten(-1, (*size, 2, 2, 2, 2))
    return cells.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
