"""Attention of a decode step: the reference's numbers, and a row's bits in any company."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from actors.kernels.attention import FP8, PAGE, attend, attend_reference, to_fp8
from tests.support.triton import DEVICE, needs_triton, random, rotary_tables

HEAD_DIM = 16
TABLES = rotary_tables(4 * PAGE, HEAD_DIM)
# The first slot of all, of a page and the last; a row in its third page; one that has nothing yet and an empty one.
POSITIONS = (0, PAGE - 1, PAGE, 2 * PAGE + 5, 3, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The arguments of `attend` for some rows whose slots before their positions are filled."""

    qkv: torch.Tensor
    kv: torch.Tensor
    scales: torch.Tensor | None
    table: torch.Tensor
    position: torch.Tensor

    def attend(self, function=attend) -> torch.Tensor:
        return function(self.qkv, self.kv, self.scales, self.table, self.position, *TABLES)

    def copy(self) -> Rows:
        return replace(self, kv=self.kv.clone(), scales=None if self.scales is None else self.scales.clone())

    def pick(self, rows: list[int]) -> Rows:
        return replace(self.copy(), qkv=self.qkv[rows], table=self.table[rows], position=self.position[rows])

    def pages_moved(self, order: torch.Tensor) -> Rows:
        """The same rows with page p of the cache at `order[p]`."""
        kv, scales = torch.empty_like(self.kv), None
        _bits(kv)[:, order] = _bits(self.kv)
        if self.scales is not None:
            scales = torch.empty_like(self.scales)
            scales[:, order] = self.scales
        return replace(self, kv=kv, scales=scales, table=order[self.table.long()].int())


def make_rows(
    *, dtype: torch.dtype = torch.float32, is_fp8: bool = False, num_heads: int = 4, num_kv_heads: int = 4
) -> Rows:
    num_rows, pages_of_row = len(POSITIONS), 3
    num_pages = num_rows * pages_of_row
    kv, scales = random(2, num_pages, num_kv_heads, PAGE, HEAD_DIM, seed=1), None
    if is_fp8:
        kv, scales = to_fp8(kv * 3)
        scales = scales[..., 0].contiguous()
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(2))
    return Rows(
        qkv=random(num_rows, (num_heads + 2 * num_kv_heads) * HEAD_DIM, seed=3, dtype=dtype) * 2,
        kv=kv if is_fp8 else kv.to(dtype),
        scales=scales,
        table=order.view(num_rows, pages_of_row).to(DEVICE, torch.int32),
        position=torch.tensor(POSITIONS, device=DEVICE),
    )


def _bits(x: torch.Tensor) -> torch.Tensor:
    """`x` in a dtype that can be compared and indexed."""
    return x.view(torch.uint8) if x.dtype == FP8 else x


KINDS = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "groups": {"num_heads": 4, "num_kv_heads": 2},
    "fp8": {"dtype": torch.bfloat16, "is_fp8": True},
    "fp8 groups": {"is_fp8": True, "num_heads": 6, "num_kv_heads": 2},
}


@needs_triton
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_outputs_and_cache_are_the_references(kind: dict) -> None:
    rows = make_rows(**kind)
    expected_rows = rows.copy()
    got, expected = rows.attend(), expected_rows.attend(attend_reference)
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if rows.qkv.dtype == torch.bfloat16 else {"atol": 2e-5, "rtol": 1e-4}
    if rows.scales is None:
        torch.testing.assert_close(got, expected, **tolerance)
        torch.testing.assert_close(rows.kv, expected_rows.kv)
    else:  # a number on the edge between two of fp8 may fall to either side
        torch.testing.assert_close(got, expected, atol=5e-2, rtol=5e-2)
        torch.testing.assert_close(rows.scales, expected_rows.scales)
        differences = (rows.kv.float() - expected_rows.kv.float()).abs()
        assert (differences <= expected_rows.kv.float().abs() / 8 + 2**-9).all()
        assert (differences > 0).float().mean() < 0.01


@needs_triton
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_rows_bits_do_not_depend_on_its_company_or_on_where_its_pages_are(kind: dict) -> None:
    rows = make_rows(**kind)
    expected = rows.copy().attend()
    for chosen in ([3], [4, 3], [5, 1, 3, 0], [3, 2, 1, 0, 4, 5]):
        assert torch.equal(rows.pick(chosen).attend(), expected[chosen])
    order = torch.randperm(rows.kv.shape[1], generator=torch.Generator().manual_seed(9)).to(DEVICE)
    assert torch.equal(rows.pages_moved(order).attend(), expected)


@needs_triton
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_numbers_beyond_a_rows_position_and_in_other_rows_do_not_reach_it(kind: dict) -> None:
    rows = make_rows(**kind)
    expected = rows.copy().attend()
    dirty = rows.copy()
    nan = 0x7F if rows.scales is not None else torch.nan  # in fp8
    for row, position in enumerate(POSITIONS):
        for slot in range(max(position, 0), 3 * PAGE):
            _bits(dirty.kv)[:, rows.table[row, slot // PAGE], :, slot % PAGE] = nan
    dirty.qkv[1] = torch.nan
    got = dirty.attend()
    others = [0, 2, 3, 4, 5]
    assert torch.equal(got[others], expected[others])
    assert got[1].isnan().all()


@needs_triton
def test_a_row_writes_its_own_slot_and_no_other() -> None:
    rows = make_rows()
    before = rows.kv.clone()
    rows.attend()
    changed = {tuple(place) for place in (rows.kv != before).any(dim=(0, 2, 4)).nonzero().tolist()}
    expected = {
        (int(rows.table[row, position // PAGE]), position % PAGE)
        for row, position in enumerate(POSITIONS)
        if position >= 0
    }
    assert changed == expected


@needs_triton
def test_an_empty_row_reads_no_page() -> None:
    rows = make_rows()
    rows.kv.fill_(torch.nan)
    assert rows.attend()[5].isfinite().all()


@needs_triton
def test_a_row_decoded_token_by_token_attends_as_a_whole_sequence_does() -> None:
    """Over two pages, against torch's causal attention."""
    num_tokens, num_heads = PAGE + 6, 2
    qkv = random(num_tokens, 3 * num_heads * HEAD_DIM)
    kv = torch.full((2, 5, num_heads, PAGE, HEAD_DIM), torch.nan, device=DEVICE)
    table = torch.tensor([[4, 1]], dtype=torch.int32, device=DEVICE)
    steps = [
        attend(qkv[step : step + 1], kv, None, table, torch.tensor([step], device=DEVICE), *TABLES)
        for step in range(num_tokens)
    ]
    heads = qkv.view(num_tokens, 3, num_heads, HEAD_DIM).permute(1, 2, 0, 3)
    cos, sin = (part[:num_tokens] for part in TABLES)
    query, key = (part * cos + part.roll(HEAD_DIM // 2, -1) * sin for part in heads[:2])
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, heads[2], is_causal=True)
    torch.testing.assert_close(torch.cat(steps), expected.transpose(0, 1).flatten(1), atol=1e-5, rtol=1e-4)
