"""Beam search in PyTorch: several texts of each prompt are followed side by side, and the best are kept.

Plain, sampled, diverse and constrained beam search are one loop here. What makes it fast: a prompt is read
once and then spread over its beams; keys and values move in place, only from where two beams differ; prompts
that have ended leave the batch, unless what is recorded or code of the caller's needs them.

Dimensions: B prompts (those still written for), W beams of each, G groups of them, U = W / G beams of a
group, Q candidates of a group, T tokens of the prompt, S positions so far, V vocabulary. The rows of text are
the beams of all prompts, B*W.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationPlan
from gpt2kit.generation.beams import Beams
from gpt2kit.generation.hypotheses import Hypotheses
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.generation.constrained import bring_forward, fulfils
from gpt2kit.torch.generation.finish import finished
from gpt2kit.torch.generation.logits import PrefixConstrainedLogitsProcessor
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.record import Record
from gpt2kit.torch.generation.search import (
    Draft,
    Search,
    check_choice,
    check_shape,
    ended_by_now,
    padding,
    step,
)

__all__ = ["beam_search"]

_NEVER = -float("inf")
# A beam that must not be chosen while another can be: in the first step all beams of a prompt are the same.
_LAST = -1e9


def beam_search(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    """Write on from a prompt by several beams.

    Args:
        model: A language model with `prepare_inputs_for_generation`.
        prompt: What the texts begin with.
        how: The rules, the ends and what to keep.
        plan: The numbers of the beams.

    Returns:
        The best tokens [B * returns, up to max_length], or an output with them and what was kept.

    Raises:
        InputError: the rules leave fewer texts than are to be returned, or scores are no numbers.
    """
    if plan.beams is None:
        raise InputError(f"This plan has no beams: it is one of {plan.mode}. Make it with num_beams above 1.")
    return _BeamSearch(model, prompt, how, plan, plan.beams).run()


class _BeamSearch:
    """The state of one beam search: texts, their totals, and what has been finished."""

    def __init__(self, model: Any, prompt: Prompt, how: Search, plan: GenerationPlan, beams: Beams) -> None:
        B, W, G = len(prompt.ids), beams.number, beams.groups
        self.model, self.prompt, self.how, self.plan, self.beams = model, prompt, how, plan, beams
        self.record = how.record or Record()
        self.draft = Draft(prompt, how.max_length)
        self.past, self.embeds = prompt.past, prompt.embeds
        if self.past is None and how.use_cache:
            room = (
                how.max_length - self.draft.length + self.draft.positions - 1
            )  # the last token is never read
            self.past = GPT2Cache.empty(model.config, capacity=room)
        first = torch.full(
            (B, G, W // G), 0.0 if how.sampled else _LAST, device=prompt.ids.device
        )  # [B, G, U]
        first[:, :, 0] = 0.0
        self.totals = first.view(-1)  # log-probability of each text, [B*W]
        self.history = prompt.ids.new_empty(
            B * W, 0
        )  # rows of the scores that the tokens came from, [B*W, steps]
        self.ends = torch.tensor(plan.eos_token_ids, device=prompt.ids.device)  # [end tokens]
        self.differs_from = 0  # first position where rows differ from those that they go on from
        self.rows = list(range(B))  # which prompts are still written for
        self.pools = [
            [Hypotheses(W // G, beams.length_penalty, beams.early_stopping, how.max_length) for _ in range(G)]
            for _ in range(B)
        ]
        rules = [*how.processors, *how.warpers]
        # Without rules and ends nothing can happen to a beam, and nobody has to wait for the device.
        self.watched = bool(rules or how.criteria or plan.eos_token_ids)
        self.prefixes = [rule for rule in rules if isinstance(rule, PrefixConstrainedLogitsProcessor)]
        for prefix in self.prefixes:
            prefix.refuses = False  # a beam that may not go on is dropped; the others go on
        self.rows_may_leave = (
            how.record is None
            and not how.own_code
            and not any(getattr(r, "knows_rows", False) for r in rules)
        )

    def run(self) -> Any:
        """Write until every prompt has its texts, and return the best."""
        logits = self._read_prompts()  # [B*W, V]
        while True:
            totals, tokens, rows = self._choose(logits)  # [B*W] each
            self._go_on(totals, tokens, rows)
            if self._is_over():
                break
            self._follow(rows)
            logits = self._read()  # [B*W, V]
        self._close()
        return finished(
            self.pools, self.plan, self.record if self.how.record else None, self.prompt.ids.device
        )

    # ------------------------------------------------------------------ the model

    def _read_prompts(self) -> Tensor:
        """Read each prompt once, and spread what came of it over its beams; the scores of each, [B*W, V]."""
        W = self.beams.number
        outputs = step(self.model, self.prompt, self.draft, self.past, self.embeds, self.how)
        self.record.add(None, outputs, times=W)
        rows = torch.arange(len(self.rows), device=self.ends.device).repeat_interleave(W)  # [B*W]
        self.prompt = replace(self.prompt, past=None).take(rows)
        self.draft.take(rows)
        self.past = None if outputs.past_key_values is None else outputs.past_key_values.reorder(rows)
        return outputs.logits[:, -1, :].index_select(0, rows)  # [B*W, V]

    def _read(self) -> Tensor:
        """Read the last token of each text and return the scores of the next, [B*W, V]."""
        embeds = self.prompt.embeds
        if embeds is not None and self.past is None:  # without a cache, every step reads all embeddings again
            new = self.draft.text()[:, self.plan.prompt_length :]  # [B*W, new]
            embeds = torch.cat((embeds, self.model.get_input_embeddings()(new)), dim=1)  # [B*W, S, D]
        outputs = step(self.model, self.prompt, self.draft, self.past, embeds, self.how)
        self.record.add(None, outputs)
        self.past = outputs.past_key_values
        return outputs.logits[:, -1, :]  # [B*W, V]

    # ------------------------------------------------------------------ which beams go on

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each of the next texts its total, its new token, and the row it goes on from, [B*W]."""
        B, G = len(self.rows), self.beams.groups
        places = torch.arange(len(logits), device=logits.device).view(B, G, -1)  # [B, G, U]
        current = torch.zeros_like(places).view(-1)  # tokens that the groups have chosen in this step, [B*W]
        kept = [torch.empty_like(logits)] if G > 1 else []  # what is recorded of all groups, [B*W, V]
        totals, sources = [], []
        for group in range(G):
            rows = places[:, group].reshape(-1)  # [B*U]
            text = self.draft.text(self.how.own_code)  # [B*W, length]
            mine = (text, logits) if G == 1 else (text[rows], logits[rows])
            extra = {} if G == 1 else {"current_tokens": current, "beam_group_idx": group}
            total, token, source = self._choose_in_group(group, rows, *mine, extra, kept)  # [B, U] each
            current[rows] = token.reshape(-1)
            totals.append(total)
            sources.append(source)
        if self.record.scores is not None:
            self.record.scores.extend(kept)
        return torch.stack(totals, dim=1).flatten(), current, torch.stack(sources, dim=1).flatten()

    def _choose_in_group(
        self,
        group: int,
        rows: Tensor,
        text: Tensor,
        logits: Tensor,
        extra: dict[str, Any],
        kept: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the next texts of one group: totals, tokens and rows they go on from, [B, U] each."""
        B, U, V = len(self.rows), self.beams.group_size, logits.size(-1)
        open_before = [not self.pools[row][group].done for row in self.rows]
        sums, scores = self._sums(rows, text, logits, extra)  # [B*U, V] each
        if kept:
            kept[0][rows] = scores
        elif self.record.scores is not None:
            self.record.scores.append(scores)
        totals, places = self._candidates(sums.view(B, U * V), U)  # [B, Q] each, the best first
        tokens = places % V  # [B, Q]
        sources = rows.view(B, U).gather(1, places // V)  # [B, Q]
        ended = torch.isin(tokens, self.ends)  # [B, Q]
        self._finish(group, totals, tokens, sources, ended)
        if len(self.ends):
            going = ended.to(torch.uint8).argsort(dim=1, stable=True)[:, :U]  # [B, U]; ended ones come last
            totals = totals.masked_fill(ended, _NEVER)  # [B, Q]; if too few go on, a beam is lost
            totals, tokens, sources = (each.gather(1, going) for each in (totals, tokens, sources))  # [B, U]
        totals, tokens, sources = totals[:, :U], tokens[:, :U], sources[:, :U]  # [B, U] each
        if self.beams.constraints:
            totals, tokens, sources = self._bring_forward(sums, totals, tokens, sources, open_before)
        if not all(open_before):
            closed = ~torch.tensor(open_before, device=rows.device)[:, None]  # [B, 1]
            # What 4.34 does with texts that have ended, and what its records show: padding, behind row 0.
            own = rows.view(B, U) if self.rows_may_leave else rows[0]  # [B, U] or []
            totals, sources = (
                totals.masked_fill(closed, 0.0),
                torch.where(closed, own, sources),
            )  # [B, U] each
            tokens = tokens.masked_fill(closed, padding(self.plan.pad_token_id))  # [B, U]
        return totals, tokens, sources

    def _sums(
        self, rows: Tensor, text: Tensor, logits: Tensor, extra: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the totals of all texts with each next token, and the scores to record, [rows, V] each."""
        for prefix in self.prefixes:
            prefix.ended = self._closed(rows)
        totals = self.totals[rows][:, None]  # [rows, 1]
        scores = self.how.processors(text, log_probabilities(logits), **extra)  # [rows, V]
        if self.how.own_code:
            check_shape(scores, logits)
        sums = scores + totals  # [rows, V]
        if self.beams.constraints:
            return sums, sums
        if not self.how.sampled:
            return sums, scores
        if self.record.scores is not None:
            scores = self.how.warpers(text, scores)  # [rows, V]
        # A beam that was lost stays so, whatever the rules of sampling make of scores that are all barred.
        sums = self.how.warpers(text, sums).masked_fill(totals == _NEVER, _NEVER)  # [rows, V]
        return sums, scores

    def _candidates(self, sums: Tensor, U: int) -> tuple[Tensor, Tensor]:
        """Return the best totals [B, Q] of all texts with all tokens [B, U*V], and their places there."""
        if not self.how.sampled:
            count = max(2, 1 + len(self.ends)) * U  # so many that enough of them do not end
            return sums.topk(min(count, sums.size(1)), dim=1)
        count = min(2 * U, sums.size(1))
        barred = sums.amax(dim=1, keepdim=True) == _NEVER  # [B, 1]
        probabilities = sums.masked_fill(barred, 0.0).softmax(dim=1)  # [B, U*V]
        drawn_for = len(self.pools)
        if drawn_for > len(
            self.rows
        ):  # prompts that have left go on drawing, so that the rest draw as in 4.34
            everyone = sums.new_ones(drawn_for, sums.size(1))  # [all B, U*V]
            everyone[self.rows] = probabilities
            probabilities = everyone
        try:
            places = torch.multinomial(probabilities, num_samples=count)  # [all B, Q]
        except RuntimeError:
            check_choice(sums.amax(dim=1).min())
            raise
        places = places[self.rows] if drawn_for > len(self.rows) else places  # [B, Q]
        totals, order = sums.gather(1, places).sort(descending=True, dim=1)  # [B, Q] each
        return totals, places.gather(1, order)  # [B, Q] each

    def _bring_forward(
        self, sums: Tensor, totals: Tensor, tokens: Tensor, sources: Tensor, is_open: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose anew among the likeliest texts and those that bring the constraints forward, [B, U] each."""
        chosen = []
        for b, texts in enumerate(self.draft.text().view(len(self.rows), self.beams.number, -1).tolist()):
            first = b * len(texts)
            found = totals[b], tokens[b], sources[b] - first  # [W] each
            if is_open[b]:
                found = bring_forward(self.beams.constraints, texts, sums[first : first + len(texts)], *found)
            chosen.append((found[0], found[1], found[2] + first))
        new_totals, new_tokens, new_sources = zip(*chosen, strict=True)
        return torch.stack(new_totals), torch.stack(new_tokens), torch.stack(new_sources)  # [B, W] each

    # ------------------------------------------------------------------ which texts are finished

    def _finish(self, group: int, totals: Tensor, tokens: Tensor, sources: Tensor, ended: Tensor) -> None:
        """Take the candidates [B, Q] that have ended into the lists, and close lists nothing can get into."""
        if not self.watched:
            return
        best = totals[:, 0]  # [B]
        report = torch.stack(
            (best, ended[:, : self.beams.group_size].any(dim=1).to(best.dtype)), dim=1
        )  # [B, 2]
        for b, (highest, some_ended) in enumerate(report.tolist()):
            pool = self.pools[self.rows[b]][group]
            if pool.done:
                continue
            if highest != highest:
                check_choice(best[b])
            if highest == _NEVER:
                pool.done = True
                self._check_texts(self.rows[b])
                continue
            if some_ended:
                for rank in ended[b, : self.beams.group_size].nonzero().flatten().tolist():
                    self._add(pool, totals[b, rank], int(sources[b, rank]), int(tokens[b, rank]))
            pool.settle(highest, self.draft.length + 1)

    def _add(self, pool: Hypotheses, total: Tensor, row: int, end: int | None) -> bool:
        """Take the text of a row into a list, and tell whether it has everything that has to be written."""
        text = self.draft.text()[row].clone()  # [length]
        beams = self.history[row]  # [steps]
        if end is not None:
            beams = torch.cat((beams, beams.new_tensor([row])))  # [steps + 1]
        if not fulfils(self.beams.constraints, text.tolist()):
            return False
        pool.add(float(total), self.draft.length, text, end, beams)
        return True

    def _check_texts(self, row: int) -> None:
        """Refuse to go on where no beam of a prompt may, and there are not enough finished texts."""
        lists = self.pools[row]
        count = sum(len(pool.found) for pool in lists)
        if all(pool.done for pool in lists) and count < self.plan.returns:
            raise InputError(
                f"The rules bar every token for the prompt in row {row} at new token "
                f"{self.draft.length - self.plan.prompt_length + 1}; {count} text(s) had ended before, and "
                f"num_return_sequences is {self.plan.returns}. Loosen the rules, which "
                "gpt2kit.generation.make_plan(...) lists in their order."
            )

    def _is_over(self) -> bool:
        """Tell whether all texts have ended, by end tokens, by criteria or by their length."""
        if all(pool.done for row in self.rows for pool in self.pools[row]):
            return True
        if self.how.criteria:
            ended = ended_by_now(
                self.how, self.draft.text(self.how.own_code), self.record.scores, None
            )  # [B*W]
            if ended is not None and self._end(ended):
                return True
        return self.draft.length >= self.how.max_length

    def _end(self, ended: Tensor) -> bool:
        """End the texts that a criterion ends; tell whether those are all."""
        closed = self._closed(torch.arange(len(ended), device=ended.device))  # [B*W]
        if bool((ended | closed).all()):
            return True
        for row in (ended & ~closed).nonzero().flatten().tolist():
            b, place = divmod(row, self.beams.number)
            self._add(self.pools[self.rows[b]][place // self.beams.group_size], self.totals[row], row, None)
            self.totals[row] = _NEVER
        return False

    def _closed(self, rows: Tensor) -> Tensor:
        """Tell of rows whether nothing can come of them: they are lost, or their list is closed, [rows]."""
        closed = [pool.done for row in self.rows for pool in self.pools[row]]
        in_lists = torch.tensor(closed, device=rows.device).repeat_interleave(self.beams.group_size)  # [B*W]
        return (in_lists | (self.totals == _NEVER))[rows]  # [rows]

    def _close(self) -> None:
        """Take the texts that are still open into the lists."""
        lacking: list[tuple[Hypotheses, float, int]] = []
        for row, total in enumerate(self.totals.tolist()):
            b, place = divmod(row, self.beams.number)
            pool = self.pools[self.rows[b]][place // self.beams.group_size]
            if total != total:
                check_choice(self.totals[row])
            if not pool.done and total > _NEVER and not self._add(pool, self.totals[row], row, None):
                lacking.append((pool, total, row))
        for pool, total, row in lacking:  # behind the others, whose place they must not take
            pool.add_spare(total, self.draft.length, self.draft.text()[row], self.history[row])

    # ------------------------------------------------------------------ the next step

    def _go_on(self, totals: Tensor, tokens: Tensor, rows: Tensor) -> None:
        """Make the next texts: each goes on from a row, by a token."""
        length = self.draft.length
        self.differs_from = self._first_difference(rows)
        self.draft.ids[:, :length] = self.draft.ids[rows, :length]  # [B*W, length]
        self.draft.append(tokens)
        self.totals = totals
        if self.record.scores is not None:
            self.history = torch.cat((self.history[rows], rows[:, None]), dim=1)  # [B*W, steps]

    def _first_difference(self, rows: Tensor) -> int:
        """Return the first position where the keys and values of a row differ from those of its source."""
        T, length = self.plan.prompt_length, self.draft.length
        offset = self.draft.positions - length  # a prefix without tokens
        if not self.rows_may_leave and any(pool.done for lists in self.pools for pool in lists):
            return 0  # texts that have ended go on from row 0, which is of another prompt
        if not rows.is_cpu:
            return T + offset  # finding out more would wait for the device
        ids = self.draft.ids[:, T:length]  # [B*W, new]
        differing = (ids != ids[rows]).any(dim=0).nonzero()  # [places, 1]
        return int(differing[0]) + T + offset if len(differing) else length + offset

    def _follow(self, rows: Tensor) -> None:
        """Bring the cache to the next texts; prompts that have ended leave."""
        W = self.beams.number
        going = [b for b, row in enumerate(self.rows) if not all(pool.done for pool in self.pools[row])]
        if self.rows_may_leave and len(going) < len(self.rows):
            blocks = torch.tensor(going, device=rows.device)[:, None] * W  # [going, 1]
            keep = (blocks + torch.arange(W, device=rows.device)).flatten()  # [B*W]
            self.rows = [self.rows[b] for b in going]
            self.draft.take(keep)
            self.prompt = self.prompt.take(keep)
            self.totals = self.totals[keep]
            self.past = None if self.past is None else self.past.reorder(rows[keep])
        elif self.past is not None:
            self.past.reorder_(rows, self.differs_from)


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log softmax of [B*W, V]; wide dtypes subtract one logsumexp, which a CPU computes far faster."""
    if logits.dtype not in (torch.float32, torch.float64):
        return logits.log_softmax(dim=-1)  # [B*W, V]
    return logits - logits.logsumexp(dim=-1, keepdim=True)  # [B*W, V]
