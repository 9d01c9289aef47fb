"""gpt2kit in lm-evaluation-harness: a real run on local tasks has the numbers of `model.score`."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the harness needs a framework")

EXCERPT = [
    "Good morrow, neighbour Baptista.",
    "And you, good sir! Pray, have you not a daughter",
    "You are too blunt: go to it orderly.",
    "I am a gentleman of Verona, sir,",
    "Of her affability and bashful modesty,",
]
# Sums of float32 over other batches; the largest difference seen was 4e-6.
CLOSE = 1e-4


def test_without_the_harness_the_module_says_what_to_install():
    program = "import sys; sys.modules['lm_eval'] = None; import gpt2kit.harness"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingDependencyError" in done.stderr
    assert "gpt2kit[eval]" in done.stderr


@pytest.fixture(scope="module")
def lm_eval():
    return pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: gpt2kit[eval]")


@pytest.fixture(scope="module")
def lm(lm_eval):
    from gpt2kit.harness import GPT2KitLM

    return GPT2KitLM("pocket", device="cpu", batch_size=3)


TASKS = {
    "last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text[:12]}}",
        "doc_to_choice": ["a man", "qwx"],
        "doc_to_target": 0,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    },
    "whole": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 11, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture(scope="module")
def results(lm_eval, lm, tmp_path_factory):
    """Run the four kinds of task on a folder of YAML and JSON lines."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in EXCERPT))
    for name, task in TASKS.items():
        whole = {
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML
    return lm_eval.simple_evaluate(
        model=lm,
        tasks=[f"local_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )


pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports, which are not ours


def value(results, task, metric):
    return results["results"][f"local_{task}"][f"{metric},none"]


def score(lm, text, **options):
    return lm.model.score(text, tokenizer=lm.tokenizer, **options)


def test_loglikelihood_is_the_score_behind_a_context(lm, results):
    scores = [
        score(lm, " " + last, context=context, greedy=True)
        for context, _, last in (text.rpartition(" ") for text in EXCERPT)
    ]
    mean = sum(each.log_prob for each in scores) / len(scores)
    assert math.log(value(results, "last", "perplexity")) == pytest.approx(-mean, abs=CLOSE)
    assert value(results, "last", "acc") == sum(bool(each.greedy.all()) for each in scores) / len(scores)


def test_multiple_choice_is_what_the_command_counts(lm, results):
    right = right_normalized = 0
    for text in EXCERPT:
        man, nonsense = (score(lm, choice, context=text[:12]).log_prob for choice in (" a man", " qwx"))
        right += man > nonsense
        right_normalized += man / 5 > nonsense / 3
    assert value(results, "choice", "acc") == right / len(EXCERPT)
    assert value(results, "choice", "acc_norm") == right_normalized / len(EXCERPT)


def test_rolling_is_the_score_behind_the_prefix_token(lm, results):
    scores = score(lm, EXCERPT, prefix_token_id=lm.prefix_token_id)
    bits = -sum(each.log_prob for each in scores) / math.log(2) / sum(each.bytes for each in scores)
    assert value(results, "whole", "bits_per_byte") == pytest.approx(bits, abs=CLOSE)


def test_generate_until_writes_what_generate_writes_up_to_the_stop(lm, results):
    for sample in results["samples"]["local_write"]:
        prompt = lm.tokenizer(sample["doc"]["text"], return_tensors="pt")
        ids = lm.model.generate(**prompt, max_new_tokens=11, do_sample=False, temperature=1.0, top_k=50)[0]
        text = lm.tokenizer.decode(ids[prompt["input_ids"].shape[1] :], clean_up_tokenization_spaces=False)
        assert sample["resps"][0][0] == text.split("\n\n")[0].split("<|endoftext|>")[0]


def instance(*arguments):
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, arguments, 0)


def test_a_long_text_rolls_in_the_harness_own_windows(lm):
    text = "\n".join(EXCERPT * 17)
    ids = lm.tok_encode(text)
    P = lm.max_length
    assert len(ids) > 3 * P
    rest = len(ids) - len(ids) // P * P
    whole = len(ids) - rest
    disjoint = score(lm, ids[:whole], prefix_token_id=lm.prefix_token_id, stride=P).log_prob
    last = score(
        lm, ids[-rest:], context=ids[-P - 1 : -rest], stride=P
    ).log_prob  # a full window reaches back
    (found,) = lm.loglikelihood_rolling([instance(text)], disable_tqdm=True)
    assert found == pytest.approx(disjoint + last, rel=1e-6)


def test_a_context_beyond_the_model_is_cut_on_the_left_and_an_empty_one_is_the_prefix(lm):
    long = "\n".join(EXCERPT * 17)
    long_one, empty = lm.loglikelihood([instance(long, " the king"), instance("", "The")], disable_tqdm=True)
    ids = lm.tok_encode(long + " the king")[-lm.max_length - 1 :]
    new = len(lm.tok_encode(long + " the king")) - len(lm.tok_encode(long))
    assert long_one[0] == pytest.approx(score(lm, ids[-new:], context=ids[:-new]).log_prob, rel=1e-5)
    assert empty[0] == pytest.approx(score(lm, "The", prefix_token_id=lm.prefix_token_id).log_prob, rel=1e-5)


def test_white_space_alone_is_no_context(lm):
    """It goes to the continuation, and the prefix stands before it; else the first token would not count."""
    (found,) = lm.loglikelihood([instance(" ", "The")], disable_tqdm=True)
    assert found[0] == pytest.approx(score(lm, " The", prefix_token_id=lm.prefix_token_id).log_prob, rel=1e-5)


@pytest.mark.parametrize(("context", "continuation"), [("Who", ""), ("", "<|endoftext|>")])
def test_a_continuation_of_nothing_is_not_the_most_probable_one(lm, context, continuation):
    from gpt2kit.errors import InputError

    with pytest.raises(InputError, match="adds no token") as caught:
        lm.loglikelihood([instance(context, continuation)], disable_tqdm=True)
    assert repr((context, continuation)) in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"do_sample": False, "temperature": 0.0}, {"temperature": 0.0}])
def test_greedy_text_is_written_without_a_warning(lm, options, recwarn):
    options = {"until": ["\n"], "max_gen_toks": 3, **options}
    lm.generate_until([instance("ROMEO:", options)], disable_tqdm=True)
    assert [str(each.message) for each in recwarn] == []


def test_the_harness_own_device_is_the_cpu_where_there_is_no_other(lm_eval, monkeypatch, caplog):
    """Its command line says cuda:0 where nobody says anything."""
    from gpt2kit.harness import GPT2KitLM

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level("WARNING"):
        lm = GPT2KitLM("pocket", device="cuda:0")
    assert (lm.device.type, lm.model.device.type) == ("cpu", "cpu")
    assert "cuda:0" in caplog.text


def test_a_continuation_of_up_to_max_length_is_one_window(lm):
    ids = lm.tok_encode("\n".join(EXCERPT * 17))[: 2 * lm.max_length]
    new = lm.max_length - 7
    ((found, _),) = lm._loglikelihood_tokens([(None, ids[:-new], ids[-new:])], disable_tqdm=True)
    wanted = score(lm, ids[-new:], context=ids[-lm.max_length - 1 : -new], stride=lm.max_length).log_prob
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_prompt_is_cut_on_the_left_so_that_the_text_has_room(lm):
    long = "\n".join(EXCERPT * 17)
    (text,) = lm.generate_until([instance(long, {"until": ["\n\n"], "max_gen_toks": 7})], disable_tqdm=True)
    ids = torch.tensor([lm.tok_encode(long)[-(lm.max_length - 7) :]])
    wanted = lm.model.generate(ids, max_new_tokens=7, do_sample=False, temperature=1.0)[0, -7:]
    assert text == lm.tokenizer.decode(wanted)


def test_what_cannot_be_honoured_is_refused(lm):
    from gpt2kit.errors import InputError
    from gpt2kit.harness import GPT2KitLM

    for arguments, said in (
        ({"max_batch_size": 7}, "max_batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"max_length": 257}, "1 to 256"),
        ({"pretrained": lm.model}, "tokenizer="),
        ({"pretrained": lm.model, "tokenizer": lm.tokenizer, "dtype": "float16"}, "dtype and revision"),
        ({"pretrained": lm.model, "tokenizer": lm.tokenizer, "revision": "v1"}, "dtype and revision"),
        ({"dtype": "half"}, "dtype should be float32, .*'half'"),
        ({"batch_size": "automatic"}, "batch_size"),
        ({"max_length": 1.5}, "max_length must be"),
        ({"max_gen_toks": 0}, "max_gen_toks must be"),
        ({"device": "gpu"}, "device 'gpu'"),
    ):
        with pytest.raises(InputError, match=said):
            GPT2KitLM(**{"device": "cpu", **arguments})
    with pytest.raises(TypeError, match="pretraned"):
        GPT2KitLM(pretraned="pocket")
    with pytest.raises(InputError, match="max_gen_toks=256 leaves no room"):
        lm.generate_until([instance("ROMEO:", {"until": ["\n"]})], disable_tqdm=True)
