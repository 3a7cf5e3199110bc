"""`understudy dlq list`: which records will never become items, and why; nothing of what they hold."""

from collections import Counter, deque

from ops.cli.reports import DeadLetterReport, LetterShown
from ops.open_log import open_history
from ops.site import Site
from stream.dead_letter import read_dead_letters


def list_letters(site: Site, use_cases: list[str], limit: int) -> DeadLetterReport:
    """Read the dead-letter topics; of each use case the newest `limit` letters are listed.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    reasons: Counter[str] = Counter()
    letters: list[LetterShown] = []
    with site.redis_client() as client, open_history(site, client) as history:
        for use_case in use_cases:
            newest: deque[LetterShown] = deque(maxlen=limit)
            for letter in read_dead_letters(history, use_case, site.secret):
                reasons[letter.reason] += 1
                newest.append(
                    LetterShown(
                        use_case=use_case,
                        reason=letter.reason,
                        detail=letter.detail,
                        topic=letter.topic,
                        partition=letter.partition,
                        offset=letter.offset,
                        time=letter.time.isoformat(),
                        size_bytes=letter.size,
                    )
                )
            letters += newest
    return DeadLetterReport(total=reasons.total(), by_reason=dict(reasons), letters=letters)
