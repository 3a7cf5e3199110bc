"""The tables of the settings file. Units are the last word of a key; every key says what it is for, once, here."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ops.addresses import wrong_collector_url, wrong_redis_url
from serve.teacher.parameters import check_call
from store.answers.spellings import wrong_labels
from store.errors import SettingsError
from store.event import Lane
from store.tasks.chat import ChatTerms
from store.tasks.rank import Tolerance
from store.tasks.tasks import LaneTerms

STRICT: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)

SHOWN: Final = "shown"  # marks an optional key that the example sets, because it would not be complete without

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]
ApiKey = Annotated[str, Field(min_length=16)]
Hosts = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...], Field(examples=[["models.example.com"]])
]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Section(BaseModel):
    """One table."""

    model_config = STRICT


class KeysSection(Section):
    """Keys and the data secret, as `understudy init` made them."""

    trusted: Path = Path("keys/trusted")
    """Folder of the public keys whose versions and moves count."""
    trainer: Path = Path("keys/trainer")
    """Private key of the trainer; gateways need none."""
    operator: Path = Path("keys/operator")
    """Private key for an operator's moves, by the CLI or the console."""
    data_secret: Path = Path("data.secret")
    """The secret that lane, redaction and dead-letter keys derive from."""
    tokens: Path = Path("keys/tokens.json")
    """Who may see texts and move lanes in the console; `understudy tokens add` makes it. It holds hashes alone."""


class LogSection(Section):
    """The log of escalations."""

    kind: Literal["embedded", "kafka"] = "embedded"
    """embedded keeps the log in Redis, for one machine; kafka is for production."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    """Partitions of a topic that does not exist yet: the most that ingest can be scaled to."""
    lease_s: Seconds = 3.0
    """Embedded: after this long without a sign of life a partition is given up."""
    bootstrap: str = ""
    """Kafka: brokers as "host:port,host:port". Required with kafka."""
    group: Text = "understudy"
    """Kafka: the consumer group of ingest."""
    replication_factor: Count = 1
    """Kafka: copies of a topic that does not exist yet; production: 3."""
    session_timeout_s: Seconds = 45.0
    """Kafka: after this long without a sign of life a member is out."""
    ack_timeout_s: Seconds = 5.0
    """An event that the log does not acknowledge within this goes to the disk spool."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Kafka: how to talk to the brokers."""
    ssl_ca_file: Annotated[Path | None, Field(examples=["ca.pem"])] = None
    """Kafka: the brokers' CA; unset: the system's."""
    ssl_certificate_file: Annotated[Path | None, Field(examples=["client.pem"])] = None
    """Kafka: our certificate, for mutual TLS."""
    ssl_key_file: Annotated[Path | None, Field(examples=["client.key"])] = None
    """Kafka: the key of our certificate."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """Kafka: how to log in, with a SASL protocol."""
    sasl_username: str = ""
    """Kafka: the user to log in as."""
    sasl_password_env: Annotated[str | None, Field(examples=["KAFKA_PASSWORD"])] = None
    """Kafka: name of the environment variable that holds the password."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "kafka" and not self.bootstrap:
            message = 'bootstrap: required with kind = "kafka", as "host:port,host:port"'
            raise ValueError(message)
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password_env):
            message = f"sasl_username: required with {self.security_protocol}, and so is sasl_password_env"
            raise ValueError(message)
        return self


class RedisSection(Section):
    """The replay buffer's store, and what the processes agree on."""

    url: Annotated[str, Field(repr=False)] = ""
    """redis://, rediss:// or unix:// of a Redis 6.2 or later with appendonly yes and noeviction; in a password # is
    written %23, ? %3F, / %2F and % %25. Empty: a private server in state_dir, which `understudy run all` starts and
    stops."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url and (why := wrong_redis_url(self.url)) is not None:
            message = f"url: {why}"
            raise ValueError(message)
        return self


class GatewaySection(Section):
    """The HTTP gateway that answers requests."""

    host: str = "127.0.0.1"
    """Address to listen on; set api_keys before it is more than loopback."""
    port: Port = 8080
    """0: any free one, named in state_dir/run/serve.json."""
    max_batch: Count = 32
    """Texts in one forward pass of the student."""
    batch_wait_ms: Annotated[float, Field(ge=0.0, le=1000.0)] = 3.0
    """How long, in milliseconds, a batch that is not full waits for the rest of its requests."""
    max_wait_s: Seconds = 2.0
    """A request that would wait longer for the student, by its pace and what waits already, is refused with 429 and
    Retry-After. Lower it where a late answer is worth nothing."""
    max_text_chars: Count = 20_000
    """A longer text, or document of a list, is refused."""
    max_message_chars: Count = 200_000
    """A chat with a longer message is refused: instructions and pasted files are longer than what is classified."""
    allowed_hosts: Hosts = ()
    """Names that clients without a key may call it by, beside localhost, addresses and its own; a key needs no name."""
    allowed_origins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^https?://[^/]+$")], ...], Field(examples=[["https://desk.example.com"]])
    ] = ()
    """Web pages whose requests are answered: your own, behind a proxy of yours. Others never are."""
    debug: bool = False
    """Log at debug level: what a teacher said that could not be read as a label, redacted."""


class AdminSection(Section):
    """/metrics, /livez and /readyz of each process; the gateway's /console. 0: a free port, see state_dir/run."""

    host: str = "127.0.0.1"
    """Address to listen on; keep it private."""
    serve_port: Port = 9471
    """Of `understudy run serve`."""
    ingest_port: Port = 9472
    """Of `understudy run ingest`."""
    train_port: Port = 9473
    """Of `understudy run train`."""
    allowed_hosts: Hosts = ()
    """Names that scrapers and browsers may call them by, beside localhost, addresses and the machine's own."""


class TrainerSection(Section):
    """When a cycle is due, and how it learns. An item is one distinct question; each is one label."""

    every_s: Seconds = 86_400.0
    """A cycle at least this often, where there is anything new."""
    min_new_labels: Count = 30
    """No cycle by growth before this many new labels."""
    growth_ratio: Annotated[float, Field(gt=0.0)] = 0.04
    """A head cycle (seconds) when labels have grown by this share."""
    fine_tune: bool = True
    """Fine-tune a copy of the encoder as well; minutes on a CPU."""
    fine_tune_growth_ratio: Annotated[float, Field(gt=1.0)] = 1.5
    """A fine-tuning cycle each time labels have grown to this multiple, by a quarter after one on fewer than 225; where
    they come slowly, each time the lane's age has grown by three quarters, if there is enough new for a head cycle."""
    quarantine_s: Annotated[float, Field(ge=0.0)] = 3600.0
    """No item is learned from before it is this old, so that a bad hour can be cut out."""
    min_items_per_label: Count = 20
    """A label enters the student with this many items."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Same seed and rows: the same student."""
    encoder: Literal["minilm"] | Path = "minilm"
    """Folder of a Hugging Face encoder (config.json, tokenizer.json, model.safetensors), or "minilm". The biggest
    lever on accuracy."""
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256
    """Tokens of a text that the student reads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is a device."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto takes bf16 where the processor computes it quickly."""
    threads: Count = 1
    """Of a cycle's process; more than one is slower on shared cores."""
    cycle_timeout_s: Seconds = 21_600.0
    """A cycle that takes longer is killed and counted."""
    usd_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    """Dollars that an hour of a cycle costs, for what `status` says was saved; 0: the machine is paid for anyway."""
    novelty_quantile: Share = 0.99
    """Inputs farther from what was learned than this share of known ones go to the teacher."""


class SplitSection(Section):
    """Who is held out: a hash of (salt, item id), so an item never changes sides."""

    calibrate_ratio: Share = 0.15
    """Share of items that the answering threshold is set on."""
    judge_ratio: Share = 0.15
    """Share of items that challenger and champion are compared on."""
    salt: Text = "understudy"
    """Never change it on a running lane: rows learned from would become judges."""

    @model_validator(mode="after")
    def _leaves_rows(self) -> Self:
        if self.calibrate_ratio + self.judge_ratio >= 1.0:
            message = "judge_ratio: must leave something to learn from: with calibrate_ratio it sums to 1 or more"
            raise ValueError(message)
        return self


class GateSection(Section):
    """What the gate lets through."""

    delta: Annotated[float, Field(gt=0.0, le=0.5)] = 0.02
    """A challenger may agree with the teacher less often by at most this share of requests."""
    min_rows: Count = 300
    """Judged rows that the strict test needs."""
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """One-sided error of each comparison."""
    growth_factor: Annotated[float, Field(gt=1.0)] = 1.5
    """Labels at this multiple of those at the last strict pass open a growth phase again."""


class BufferSection(Section):
    """The replay buffer."""

    items_per_stratum: Count = 20_000
    """Items kept of each lane and label, drawn uniformly."""


class SpoolSection(Section):
    """Escalations on disk while the log is away."""

    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """A full spool drops events, counts them and raises an alert."""


class TracingSection(Section):
    """OpenTelemetry spans of requests, of ingest and of cycles; they hold no texts. Needs the extra `otel`."""

    endpoint: Annotated[str, Field(examples=["http://127.0.0.1:4318"])] = ""
    """Where a collector takes spans by OTLP over HTTP; without a path, /v1/traces is meant. Empty: none are made, and a
    client's trace context is only passed on."""
    sample_ratio: Ratio = 1.0
    """Share of requests whose traces are kept; a client's own trace says by its `traceparent` whether it is."""
    headers_env: Annotated[str | None, Field(examples=["OTLP_HEADERS"])] = None
    """Name of the environment variable with the collector's headers, as "name=value,name2=value2"."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.endpoint and (why := wrong_collector_url(self.endpoint)) is not None:
            message = f"endpoint: {why}"
            raise ValueError(message)
        return self


class PromiseSection(Section):
    """What the lane promises of the answers that the student gives itself."""

    target: Share = 0.95
    """Share of the student's own answers that agree with the teacher, at least."""
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    """With which the target is promised."""


class BudgetSection(Section):
    """What the teacher may cost in any 24 hours; audits are paid from it first."""

    calls_per_day: Annotated[int, Field(ge=0, examples=[5000])]
    """Calls of the teacher, at most. Reloaded on SIGHUP."""
    usd_per_day: Annotated[Annotated[float, Field(ge=0.0)] | None, Field(examples=[40.0])] = None
    """Dollars, at most, by the lane's prices; unset: calls alone are limited. Reloaded on SIGHUP."""
    audit_reserve_ratio: Ratio = 0.1
    """Share of both that escalations leave to audits. Reloaded on SIGHUP."""


class TeacherSection(Section):
    """An OpenAI-compatible endpoint, and all that shapes its answer."""

    base_url: Annotated[str, Field(pattern=r"^https?://", examples=["https://api.openai.com/v1"])]
    """Up to and including /v1."""
    model: Annotated[Text, Field(examples=["gpt-4o-mini"])]
    """The model's name there."""
    prompt_file: Annotated[Path | None, Field(examples=["prompts/classify.txt"], json_schema_extra={SHOWN: True})] = (
        None
    )
    """Text in which $text and $labels are filled in (rank: $query and $documents); a changed one makes older answers
    stale: `understudy prompt`. None for chat, whose teacher gets the client's messages, nor for a reranker."""
    parameters: dict[str, Any] = {"temperature": 0}
    """Of the request's body, as the endpoint knows them: top_k and the like, too. extra_headers and extra_query are
    tables of their own."""
    kind: Literal["chat", "rerank"] = "chat"
    """chat: a language model with a prompt, at /chat/completions. rerank: a reranker without one, at /rerank, for the
    task rank."""
    parser: Literal["text", "json"] = "text"
    """text: the answer is the label; json: an object with the field label."""
    api_key_env: Annotated[str | None, Field(examples=["OPENAI_API_KEY"])] = None
    """Name of the environment variable that holds the endpoint's key; unset: it wants none."""
    timeout_s: Seconds = 30.0
    """Of one call; after it the student answers if it can."""
    concurrency: Count = 16
    """Calls in flight, at most."""
    input_usd_per_mtok: Annotated[float, Field(ge=0.0)] = 0.0
    """Dollars for a million tokens in."""
    output_usd_per_mtok: Annotated[float, Field(ge=0.0)] = 0.0
    """Dollars for a million tokens out."""
    search_usd: Annotated[float, Field(ge=0.0)] = 0.0
    """Dollars for a search of a reranker that is paid so: a call, for each hundred documents of it."""
    window_documents: Annotated[int, Field(ge=2, le=1000)] = 50
    """Documents that a chat model ranks at once; a longer list is read in windows that overlap by half, a call each."""
    proxy: Annotated[str | None, Field(repr=False, examples=["http://proxy.example.com:3128"])] = None
    """The proxy to the endpoint; the variables HTTP_PROXY and HTTPS_PROXY are not read, lest questions go astray."""

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            message = "api_key_env: the name of a variable is wanted, not the key itself, which belongs into it"
            raise ValueError(message)
        try:
            check_call(base_url=self.base_url, model=self.model, proxy=self.proxy, parameters=self.parameters)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return self


class RankSection(Section):
    """What the lane calls the same ranking: set before any coverage is looked at, and printed with the promise."""

    k: Annotated[int, Field(ge=1, le=100)] = 1
    """First places that count."""
    epsilon: Annotated[float, Field(ge=0.0)] = 0.05
    """What a place may lose, in the teacher's own scores. A teacher that only gives an order knows no distance."""


class ChatSection(Section):
    """How far a lane's student reads and writes: what is longer goes to the teacher."""

    max_prompt_tokens: Annotated[int, Field(ge=16, le=1 << 20)] = 2048
    """Of a conversation, as the student's tokenizer counts."""
    max_answer_tokens: Annotated[int, Field(ge=1, le=1 << 16)] = 512
    """Of an answer; an answer that comes to no end within is the teacher's to give."""
    referee: Literal["off", "teacher"] = "off"
    """Who says whether two texts of different words say the same. teacher: the lane's own, asked twice a pair and paid
    from the budget as audits are. off: such texts do not agree."""
    distance_limit: Annotated[float, Field(gt=0.0, le=2.0)] = 0.7
    """Texts whose vectors are farther apart (1 - cosine, by the student's encoder) differ, and nobody is asked."""
    judged_share: Ratio = 0.1
    """Share of budget.calls_per_day that the referee of one training cycle may use; pairs that it leaves count as
    different. The budget itself binds it in any case."""


class LaneStudentSection(Section):
    """The lane's own student, where it is another than [trainer] says."""

    encoder: Annotated[Literal["minilm"] | Path | None, Field(examples=["minilm"])] = None
    """As trainer.encoder; unset: that one. For rank also the folder of a cross-encoder: a classifier of one output."""
    model: Annotated[Literal["smollm2"] | Path | None, Field(examples=["models/small"])] = None
    """Of chat: folder of a language model that answers (Llama, Mistral, Qwen or Gemma, with a chat template), or
    "smollm2"."""
    decide: Literal["end", "first_tokens", "prompt"] = "end"
    """Of chat: when it is decided who answers. end: once the student's answer is whole. first_tokens: a streamed answer
    is held back until its first telling tokens are there. prompt: before anything is answered. The sooner, the fewer
    answers are certified: `understudy status` says how many."""
    engine: Annotated[
        tuple[Annotated[str, Field(pattern=r"^https?://")], ...], Field(examples=[["http://10.0.0.5:8000/v1"]])
    ] = ()
    """Of chat: addresses of vLLM servers that run the model, up to and including /v1; none: this process runs it."""
    engine_folder: Annotated[Path | None, Field(examples=["/srv/adapters"])] = None
    """Folder of adapters that the gateway writes, and that those servers see under the same path."""
    engine_key_env: Annotated[str | None, Field(examples=["VLLM_API_KEY"])] = None
    """Name of the environment variable that holds those servers' key; unset: they want none."""
    max_tokens: Annotated[Annotated[int, Field(ge=8, le=8192)] | None, Field(examples=[128])] = None
    """As trainer.max_tokens; for rank, of a document, or of query and document where a cross-encoder reads both."""
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, Field(examples=["cpu"])] = None
    """As trainer.device."""
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, Field(examples=["fp32"])] = None
    """As trainer.precision."""
    threads: Annotated[Count | None, Field(examples=[2])] = None
    """As trainer.threads."""
    ranks: Annotated[Annotated[int, Field(ge=1, le=64)] | None, Field(examples=[1])] = None
    """Of chat: processes that fine-tune together on this machine, one a GPU; unset: one."""
    strategy: Annotated[Literal["ddp", "fsdp"] | None, Field(examples=["ddp"])] = None
    """How ranks share a model. ddp, as unset: each holds all of it. fsdp, for 2 ranks or more: each holds its share of
    the layers, where the whole does not fit beside its gradients."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.strategy == "fsdp" and (self.ranks or 1) == 1:
            message = "strategy: with fsdp ranks share a model, and there is one: set ranks to 2 or more"
            raise ValueError(message)
        return self


def one_alone(labels: Sequence[str]) -> str | None:
    """What is wrong with a list of one label; None: it has none, or more."""
    return "there is one alone, of which nothing can be learned: give two or more" if len(labels) == 1 else None


class LaneSection(Section):
    """A lane is a tenant's use case: its own buffer, split, budget, promise, gate, champion and history."""

    tenant: Annotated[Slug, Field(examples=["acme"])]
    """Lower-case letters, digits, - and _."""
    use_case: Annotated[Slug, Field(examples=["support"])]
    """The `model` that a client asks for."""
    task: Literal["classify", "rank", "chat"] = "classify"
    """classify: a text's label. rank: an order of documents. chat: the next message."""
    labels: Annotated[
        tuple[Text, ...], Field(examples=[["refund", "delivery", "other"]], json_schema_extra={SHOWN: True})
    ] = ()
    """What the teacher may answer, in a fixed order. Either this or labels_file, for classify. Before one is renamed or
    taken off: `understudy labels`."""
    labels_file: Annotated[Path | None, Field(examples=["labels.txt"])] = None
    """The same from a file, one a line."""
    training_permitted: Annotated[bool, Field(examples=[False])]
    """May a student be trained on this teacher's answers? Many providers' terms forbid it: read them. With false
    nothing is learned."""
    api_keys: Annotated[tuple[ApiKey, ...], Field(repr=False, examples=[["a-long-random-string"]])] = ()
    """Bearer keys of the tenant's clients, 16 characters or more; none: open to loopback alone. Reloaded on SIGHUP."""
    policy: Literal["promise", "budget"] = "promise"
    """promise: the student answers where its agreement is certified. budget: the budget goes to what it is least sure
    of, and nothing is promised: the table promise is not used."""
    metric: Literal["accuracy", "balanced_accuracy"] = "accuracy"
    """What a budget is spent to raise. balanced_accuracy counts rare labels like frequent ones; policy budget only."""
    rows_per_day: Annotated[Annotated[float, Field(gt=0.0)] | None, Field(examples=[20_000])] = None
    """With the policy budget: questions expected a day. Set it where gateways share the lane; unset: measured."""
    audit_ratio: Ratio = 0.05
    """Share of the student's answers that the teacher checks in the background. Reloaded on SIGHUP."""
    promise: PromiseSection = PromiseSection()
    rank: RankSection = RankSection()
    chat: ChatSection = ChatSection()
    student: LaneStudentSection = LaneStudentSection()
    budget: BudgetSection
    teacher: TeacherSection

    @property
    def lane(self) -> Lane:
        """Who and what it is for."""
        return Lane(self.tenant, self.use_case)

    def terms(self, earlier: tuple[str, ...] = ()) -> LaneTerms:
        """By what its answers are read; `earlier` are the labels that rulings tell of."""
        tolerance = Tolerance(k=self.rank.k, epsilon=self.rank.epsilon)
        chat = ChatTerms(decide=self.student.decide, **self.chat.model_dump())
        return LaneTerms(labels=self.labels, earlier=earlier, tolerance=tolerance, chat=chat)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.task == "classify" and bool(self.labels) == (self.labels_file is not None):
            message = "labels: give either labels or labels_file"
            raise ValueError(message)
        if self.task != "rank" and self.teacher.kind == "rerank":
            message = f"teacher.kind: a reranker teaches the task rank alone, not {self.task}"
            raise ValueError(message)
        prompted = self.task != "chat" and self.teacher.kind == "chat"
        if prompted != (self.teacher.prompt_file is not None):
            message = "a teacher of this task and kind needs one" if prompted else "here the teacher has none"
            message = f"teacher.prompt_file: {message}"
            raise ValueError(message)
        if self.task == "chat" and self.training_permitted and self.student.model is None:
            message = "student.model: a lane of chat needs the folder of a language model, which learns to answer"
            raise ValueError(message)
        if self.task != "chat" and self.student.decide != "end":
            message = f"student.decide: a student of {self.task} says all at once: only a lane of chat can choose"
            raise ValueError(message)
        if self.task != "chat" and (self.student.ranks or 1) > 1:
            message = f"student.ranks: a student of {self.task} is small, and one process trains it: take ranks out"
            raise ValueError(message)
        if bool(self.student.engine) != (self.student.engine_folder is not None):
            message = "student.engine: servers of an engine and the folder that they share, engine_folder, go together"
            raise ValueError(message)
        if (wrong := wrong_labels(self.labels) or one_alone(self.labels)) is not None:
            message = f"labels: {wrong}"
            raise ValueError(message)
        if self.metric == "balanced_accuracy" and self.policy != "budget":
            message = 'metric: balanced_accuracy needs policy = "budget"; a promise counts each question alike'
            raise ValueError(message)
        return self
