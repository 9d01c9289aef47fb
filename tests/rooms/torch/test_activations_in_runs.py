"""Activations by name in generations, threads, tasks and compiled models."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from activation_cases import IDS, make
from cases import B, T
from gpt2kit.torch import taps

# --------------------------------------------------------------------------- caches and generation


def test_a_generation_is_recorded_call_by_call() -> None:
    model = make()
    with model.record("h.*.attn.weights", "h.1.attn.key", "logits") as store:
        text = model.generate(IDS, max_new_tokens=4, pad_token_id=0, eos_token_id=None)
    assert [tuple(call["h.0.attn.weights"].shape) for call in store.calls] == [
        (B, 3, T, T),
        *((B, 3, 1, S) for S in range(T + 1, T + 4)),
    ]
    assert all(call["logits"].shape == (B, 1, 101) for call in store.calls)
    with model.record("h.1.attn.key") as whole:
        attentions = model(text[:, :-1], output_attentions=True).attentions
    keys = torch.cat([call["h.1.attn.key"] for call in store.calls], dim=2)
    torch.testing.assert_close(keys, whole["h.1.attn.key"])
    for step, call in enumerate(store.calls[1:], start=T):
        torch.testing.assert_close(call["h.2.attn.weights"][:, :, 0], attentions[2][:, :, step, : step + 1])


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_patch_holds_in_every_step_of_a_generation(use_cache: bool) -> None:
    model = make()
    plain = model.generate(IDS, max_new_tokens=5, pad_token_id=0, eos_token_id=None, use_cache=use_cache)

    def only_token_7(logits: Tensor) -> Tensor:
        logits[..., 7] = 1e6
        return logits

    with model.patch({"logits": only_token_7}):
        text = model.generate(IDS, max_new_tokens=5, pad_token_id=0, eos_token_id=None, use_cache=use_cache)
    assert torch.equal(text[:, T:], torch.full((B, 5), 7))
    with model.patch({"h.1.attn.value": lambda value: -value}):
        text = model.generate(IDS, max_new_tokens=5, pad_token_id=0, eos_token_id=None, use_cache=use_cache)
        logits = model(text[:, :-1]).logits
    assert torch.equal(text[:, T:], logits[:, T - 1 :].argmax(-1))
    assert not torch.equal(text, plain)


@pytest.mark.parametrize(
    "way",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 2},
        {"guidance_scale": 1.5},
    ],
    ids=lambda way: next(reversed(way)),
)
def test_every_way_of_decoding_is_recorded_unchanged_and_patched(way: dict[str, Any]) -> None:
    model = make()
    options = {"max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None, **way}
    wanted = model.generate(IDS[:1], **options)
    with model.record("h.1.attn.weights", "h.2.out", "logits") as store:
        text = model.generate(IDS[:1], **options)
    assert torch.equal(text, wanted)
    assert all(list(call) == ["h.1.attn.weights", "h.2.out", "logits"] for call in store.calls)
    states = 50 * model.transformer.wte.weight[7].detach()
    with model.patch({"ln_f": lambda normed: states.expand_as(normed).contiguous()}):
        assert model.generate(IDS[:1], **options)[0, T:].tolist() == [7, 7, 7, 7]


@torch.no_grad()
def test_patched_keys_and_values_go_into_the_cache() -> None:
    model = make()
    patch = {"h.1.attn.key": lambda key: key / 2, "h.0.attn.value": lambda value: -value}
    with model.patch(patch):
        wanted = model(IDS).logits
        past = model(IDS[:, :3]).past_key_values
        rest = model(IDS[:, 3:], past_key_values=past).logits
    torch.testing.assert_close(rest, wanted[:, 3:])
    with model.patch(patch):
        past = model(IDS[:, :3]).past_key_values
    mixed = model(IDS[:, 3:], past_key_values=past).logits
    assert (mixed - wanted[:, 3:]).abs().max() > 1e-3  # the past is patched, the present is not


# --------------------------------------------------------------------------- threads, tasks, compilers


def test_threads_do_not_see_each_others_blocks() -> None:
    model = make()
    wanted = {factor: model(inputs_embeds=model.transformer.wte(IDS) * factor).logits for factor in (1, 2, 3)}
    barrier = threading.Barrier(3, timeout=60)
    found: dict[int, tuple[Tensor, int]] = {}

    def work(factor: int) -> None:
        places = model.transformer.wpe.weight[:T]
        with (
            model.patch({"embed": lambda states: (states - places) * factor + places}),
            model.record("h.0.in") as store,
        ):
            barrier.wait()
            for _ in range(5):
                logits = model(IDS).logits
            barrier.wait()
        found[factor] = (logits, len(store.calls))

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (2, 3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for _ in range(5):
        assert torch.equal(model(IDS).logits, wanted[1])
    barrier.wait()
    for thread in threads:
        thread.join()
    for factor in (2, 3):
        logits, calls = found[factor]
        torch.testing.assert_close(logits, wanted[factor])
        assert calls == 5


def test_tasks_do_not_see_each_others_blocks_and_may_end_in_any_order() -> None:
    model = make()

    async def work(word: str, turns: int) -> int:
        with model.record(word) as store:
            for _ in range(turns):
                model(IDS)
                await asyncio.sleep(0)
        assert list(store) == [word]
        return len(store.calls)

    async def both() -> list[int]:
        return await asyncio.gather(work("embed", 2), work("ln_f", 4))

    assert asyncio.run(both()) == [2, 4]


def test_blocks_of_generators_may_end_in_the_order_in_which_they_began() -> None:
    model = make()

    def held(word: str) -> Any:
        with model.record(word) as store:
            yield store

    first, second = held("embed"), held("ln_f")
    one, two = next(first), next(second)
    model(IDS)
    first.close()
    model(IDS)
    second.close()
    model(IDS)
    assert (len(one.calls), len(two.calls)) == (1, 2)


def test_a_block_is_seen_by_the_tasks_that_start_inside_it_until_it_ends() -> None:
    model, other = make(), make()
    plain = model(IDS).logits

    async def logits(when: asyncio.Event) -> Tensor:
        await when.wait()
        return model(IDS).logits

    async def work() -> None:
        inside, after = asyncio.Event(), asyncio.Event()
        with model.patch({"ln_f": torch.zeros_like}):
            early, late = asyncio.create_task(logits(inside)), asyncio.create_task(logits(after))
            inside.set()
            assert not (await early).any()
            assert not (await asyncio.to_thread(lambda: model(IDS).logits)).any()
        after.set()
        with other.record("ln_f"):  # so that places are looked at
            assert torch.equal(await late, plain)

    asyncio.run(work())


def test_a_block_that_another_thread_ends_has_ended() -> None:
    model, other = make(), make()
    plain = model(IDS).logits

    def held() -> Any:
        with model.patch({"ln_f": torch.zeros_like}):
            yield model(IDS).logits

    generator = held()
    assert not next(generator).any()
    ending = threading.Thread(target=generator.close)
    ending.start()
    ending.join()
    with other.record("ln_f"):
        assert torch.equal(model(IDS).logits, plain)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_model_runs_as_it_is_written_while_a_block_is_open(fullgraph: bool) -> None:
    model = make()
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(1)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    wanted = compiled(IDS).logits
    with model.record("h.1.attn.weights"), model.patch({"h.1.mlp.out": torch.zeros_like}):
        eager = model(IDS).logits
    with model.record("h.1.attn.weights") as store, model.patch({"h.1.mlp.out": torch.zeros_like}):
        assert torch.equal(compiled(IDS).logits, eager)
    assert store["h.1.attn.weights"].shape == (B, 3, T, T)
    torch.testing.assert_close(compiled(IDS).logits, wanted)
    assert len(graphs) == 1


def test_nothing_is_looked_up_while_no_block_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_pass", "_of"):
        monkeypatch.setattr(taps, name, lambda *given: pytest.fail("looked for open blocks"))
    make().train()(IDS, labels=IDS)
