"""`understudy dlq reopen`: the counter-move to `drop`. A letter that was dropped is open again, and may be replayed."""

from ops.letters.settling import Order, settled
from ops.open_log import open_history
from ops.reports import LettersSettled
from ops.site import Site
from store.buffer.repair.letters import readable
from store.letters.decisions import InForce, LetterDecision, fold
from stream.dead_letter import read_dead_letters


def reopen_letters(site: Site, order: Order) -> LettersSettled:
    """Take back that letters were dropped. One that was replayed is named and left: its event is in the log.

    What nobody has signed is taken back, too, whatever it says.

    Raises:
        MoveConflictError: somebody else has decided meanwhile.
        SettingsError, RegistryError: there is no operator's key, or decisions do not verify or cannot be written.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    with site.redis_client() as client, open_history(site, client) as history:
        deciding = site.deciding(client, order.use_case)
        noted_again = 0 if order.dry_run else deciding.put_right()
        notes, records = deciding.book.notes(order.use_case), deciding.chain.read()
        decided, standing = readable(notes), fold(records) if records else None
        letters = [one for one in read_dead_letters(history, order.use_case, site.secret) if order.choice.takes(one)]
        meant = [
            one
            for one in letters
            if one.id in notes and (order.choice.ids or _may(one.id, decided, standing))  # of --all, what can be
        ]
        reasons = {one.id: one.reason for one in meant if _may(one.id, decided, standing)}
        opened = set(reasons) if order.dry_run or not reasons else deciding.reopen(reasons, why=order.why)
    why_not = {
        one.id: "it was sent again: its event is in the log"
        if one.id not in reasons
        else None
        if one.id in opened
        else "somebody else has reopened it"
        for one in meant
    }
    return LettersSettled(
        use_case=order.use_case,
        letters=[settled(order, one, why_not[one.id]) for one in meant],
        gone=0,
        dry_run=order.dry_run,
        noted_again=noted_again,
    )


def _may(letter: str, decided: dict[str, LetterDecision], standing: InForce | None) -> bool:
    """Whether what is noted of a letter can be taken back; `standing`: what is signed, None before anything was."""
    if standing is not None and letter not in standing.signed and letter not in standing.adopted:
        return True
    return letter not in decided or decided[letter].outcome == "dropped"
