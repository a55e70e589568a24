"""Logits of an answer's first token, for many questions about one image: the image is encoded and read once.

Shape legend: N questions, P tokens of the shared prefix (template and image), S of the longest rest, V vocabulary.

Where a family's cache cannot be shared, or shared logits are not those of questions asked alone (tried on a probe), the
questions are asked as one padded batch; `way` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from armor_eval.models.base import Question
from armor_eval.models.hf_prompts import PROBE, Prompter, probe_question
from armor_eval.models.options import names
from armor_model.base.errors import one_line
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHARED, PADDED, ALONE = "one forward pass, shared prefix", "one padded batch", "one by one"
FINE, COARSE = 1e-3, 5e-2
"""Largest difference between a shared and a lone pass: of a log-probability in float32, of a probability below."""
LEAST = -14.0
"""Log-probability below which a token makes no difference to a score."""


class NotShared(Exception):  # noqa: N818 - a way that does not go
    """Why the questions cannot share their prefix; one line."""


class FirstTokens:
    """A loaded model, asked for its first token only.

    `alone`: the family's rows in a batch are not what they are alone (models.hf.ALONE).
    """

    def __init__(self, model: PreTrainedModel, prompter: Prompter, alone: bool) -> None:
        self._model, self._prompter, self._tokenizer = model, prompter, prompter.processor.tokenizer
        self.way = ALONE if alone else SHARED
        self._proven = False
        """Whether the shared pass was compared on an image of the run, not only on the probe."""
        if not alone:
            image = probe_question().parts[0]
            texts = (PROBE, "Is it grey? Answer in one word.", "How many squares are there?")
            self._checked([Question(text, [image, text]) for text in texts], 3)

    def logits(self, questions: Sequence[Question]) -> torch.Tensor:
        """[N, V] in float32 on the CPU, of questions that show the same images before their text."""
        import torch

        if self.way == SHARED and len(questions) > 1:
            if not self._proven:  # a real image may be longer than a window that the probe fits into
                self._proven, logits_NV = True, self._checked(questions, 1)
            else:
                try:
                    logits_NV = self._shared(questions)
                except NotShared:  # of these texts; others may go
                    logits_NV = None
            if logits_NV is not None:
                return logits_NV
        if self.way == ALONE:
            return torch.cat([self._batch([question]) for question in questions])
        return self._batch(questions)

    def _checked(self, questions: Sequence[Question], count: int) -> torch.Tensor | None:
        """The shared pass [N, V], its last `count` rows compared with lone passes. Where they differ, or it cannot be
        had, the way becomes the padded one, saying why, and there is None."""
        import torch

        try:
            shared = self._shared(questions)
            lone = torch.cat([self._batch([question]) for question in questions[-count:]]).log_softmax(-1)
            apart = (shared[-count:].log_softmax(-1) - lone)[lone > LEAST].abs().max()
            if self._model.dtype != torch.float32:
                apart = (shared[-count:].softmax(-1) - lone.exp()).abs().max()
            if not apart <= (FINE if self._model.dtype == torch.float32 else COARSE):
                raise NotShared(f"they differ by {float(apart):.1e}")
            return shared
        except Exception as error:  # a family refuses in its own way; whatever it is, the plain way remains
            self.way = f"{PADDED} ({one_line(f'{type(error).__name__}: {error}')[:120]})"
            return None

    def _shared(self, questions: Sequence[Question]) -> torch.Tensor:
        """[N, V]: the prefix [1, P] once, its cache repeated N times, then the rests [N, S], padded on the right, where
        no mask is needed: nothing that counts looks at what stands behind it."""
        import torch

        prompter, model = self._prompter, self._model
        rows = [[prompter.clean(part) for part in question.parts] for question in questions]
        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompter.render(rows)]
        common = _common_length(ids)
        rests = [row[common:] for row in ids]
        inputs = self._inputs([questions[0]])
        whole = inputs["input_ids"][0].tolist()
        if whole[-len(rests[0]) :] != rests[0]:
            raise NotShared("the processor splits the text in another way than its tokenizer")
        length = len(whole) - len(rests[0])
        image_ids = set(whole) - {token for row in ids for token in row}
        marks = {model.config.__dict__.get(name) for name in ("image_token_id", "image_token_index")} | image_ids
        if marks & {token for row in rests for token in row}:
            raise NotShared("an image stands behind what differs")
        per_token = {name: value for name, value in inputs.items() if _per_token(value, len(whole))}
        prefix = {**inputs, **{name: value[:, :length] for name, value in per_token.items()}}
        count, longest = len(rests), max(map(len, rests))
        pad = self._tokenizer.pad_token_id or 0
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in rests], device=model.device)
        keep = {"logits_to_keep": 1} if names(model.forward, "logits_to_keep") else {}
        with torch.inference_mode():
            cache = model(**prefix, **keep, use_cache=True).past_key_values
            cache.batch_repeat_interleave(count)
            out = model(input_ids=padded, past_key_values=cache, use_cache=True).logits
            last = torch.tensor([len(row) - 1 for row in rests], device=out.device)
            return out[torch.arange(count, device=out.device), last].float().cpu()

    def _batch(self, questions: Sequence[Question]) -> torch.Tensor:
        """[N, V] through `generate`, whose masks and positions are right for every family."""
        import torch

        with torch.inference_mode():
            out = self._model.generate(
                **self._inputs(questions),
                do_sample=False,
                max_new_tokens=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return out.logits[0].float().cpu()

    def _inputs(self, questions: Sequence[Question]) -> JsonObject:
        from armor_eval.models.hf import UNUSED

        inputs = self._prompter.encode(questions).to(self._model.device, self._model.dtype)
        return {k: v for k, v in inputs.items() if k not in UNUSED or names(self._model.forward, k)}


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with, at least one of each row left over."""
    most = min(map(len, rows)) - 1
    return next((at for at in range(most) if len({row[at] for row in rows}) > 1), most)


def _per_token(value: object, length: int) -> bool:
    """Whether an input has a column a token: ids, mask, kinds of tokens."""
    return getattr(value, "ndim", 0) == 2 and tuple(getattr(value, "shape", ())) == (1, length)
