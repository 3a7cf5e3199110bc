"""`understudy dlq reopen`: the counter-move to `drop`. A letter that was dropped is open again, and may be replayed."""

from ops.letters.settling import Order, settled
from ops.open_log import open_history
from ops.reports import LetterSettled, LettersSettled
from ops.site import Site
from store.buffer.repair.letters import LetterBook, LetterDecision, Reopening
from store.event import wall_clock_s
from stream.dead_letter import DeadLetter, read_dead_letters


def reopen_letters(site: Site, order: Order) -> LettersSettled:
    """Take back that letters were dropped. One that was replayed is named and left: its event is in the log.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    with site.redis_client() as client, open_history(site, client) as history:
        book = LetterBook(client)
        decided = book.decisions(order.use_case)
        letters = [one for one in read_dead_letters(history, order.use_case, site.secret) if order.choice.takes(one)]
        meant = [
            one
            for one in letters
            if one.id in decided and (order.choice.ids or decided[one.id].outcome == "dropped")  # of --all, what can be
        ]
        found = [_reopened(book, order, one, decided[one.id]) for one in meant]
    return LettersSettled(use_case=order.use_case, letters=found, gone=0, dry_run=order.dry_run)


def _reopened(book: LetterBook, order: Order, letter: DeadLetter, decision: LetterDecision) -> LetterSettled:
    why_not = None if decision.outcome == "dropped" else "it was sent again: its event is in the log"
    if why_not is None and not order.dry_run:
        back = Reopening(letter=letter.id, dropped=decision, who=order.who, why=order.why, at_s=wall_clock_s())
        why_not = None if book.reopen(order.use_case, letter.reason, back) else "somebody else has reopened it"
    return settled(order, letter, why_not)
