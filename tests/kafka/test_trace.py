"""One request's life where the log is Kafka: the same reader, bounded by the time that the id holds."""

from ops.open_log import open_history
from ops.trace.log import search
from ops.trace.names import name_of
from store.event import encode
from tests.ops.sites import LANE
from tests.ops.stand import TOPIC, Stand, until
from tests.ops.task_lanes import label_event, run

_BEFORE = 2_500  # records, one a minute, in the same partition


def test_an_event_is_found_among_many_by_the_time_of_its_id_and_told_with_its_place(stand: Stand) -> None:
    event = label_event(stand, 1, 1)
    at_ms = int(event.time_s * 1000)
    sent = [
        stand.appender.append(TOPIC, key=b"k", value=b"{}", timestamp_ms=at_ms - (_BEFORE - number) * 60_000)
        for number in range(_BEFORE)
    ]
    sent.append(stand.appender.append(TOPIC, key=b"k", value=encode(event), timestamp_ms=at_ms))
    for one in sent:
        one.result(60)
    with stand.ingesting():
        until(lambda: stand.counters.counted == 1)
    with open_history(stand.site, stand.client) as history:
        found = search(history, LANE.use_case, name_of(event.id), stand.site.secret, whole=False)
    assert found.looked.records < 200, "an hour before it, a minute each, and the step of the halving"
    told = run(stand, "trace", event.id)
    (record,) = told["records"]
    assert (record["offset"], record["fate"], told["item"]["holds_event"]) == (_BEFORE, "applied", "counted")
    assert told["looked"][0]["whole"] is True
