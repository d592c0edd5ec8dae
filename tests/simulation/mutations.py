"""What is broken on purpose in the code that ships, to show that the simulation would see it: each is a fault that a
change could bring in, as an exact replacement of text that is there once. `test_teeth` applies them one at a time.
"""

from pathlib import Path
from typing import NamedTuple


class Edit(NamedTuple):
    """In `file` of `src/howk`, `old` becomes `new`."""

    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    """`name` is a sentence on what the broken code does. `storm` is the climate that brings it out (`world.STORMS`), ""
    where those that seeds draw do."""

    name: str
    edits: tuple[Edit, ...]
    storm: str = ""


class Moved(Exception):
    """The source has changed: a mutation no longer names what is there."""


def mutate(mutation: Mutation, source: Path) -> None:
    """Break the code below `source`, a copy of `src/howk`. Raises `Moved` where a text is not there exactly once."""
    for file, old, new in mutation.edits:
        path = source / file
        text = path.read_text()
        if text.count(old) != 1:
            raise Moved(f"{mutation.name}: {file} has this {text.count(old)} times and not once:\n{old}")
        path.write_text(text.replace(old, new))


def _one(name: str, file: str, old: str, new: str, storm: str = "") -> Mutation:
    return Mutation(name, (Edit(file, old, new),), storm)


MUTATIONS = (
    # The order of effects
    _one(
        "a record is marked finished before its outcome is in the log",
        "flow/stage.py",
        "        await self._insist(lambda: self._journal.append(records, finish))\n",
        "        await self._insist(lambda: self._journal.append((), finish))\n"
        "        await self._insist(lambda: self._journal.append(records))\n",
    ),
    _one(
        "settle tells hot state before the log",
        "flow/stage.py",
        "            if records or not self._lazy_finish or not emissions or time() >= self._owed_until:\n"
        "                await self._append(records)\n"
        "            if emissions:\n"
        "                await self._insist(lambda emissions=emissions: self._room.settled(emissions))\n",
        "            if emissions:\n"
        "                await self._insist(lambda emissions=emissions: self._room.settled(emissions))\n"
        "            if records or not self._lazy_finish or not emissions or time() >= self._owed_until:\n"
        "                await self._append(records)\n",
    ),
    _one(
        "hot state has a watermark ahead of its effects",
        "flow/settle.py",
        "        due = await self._state.apply(effects, watermark, self._endpoints, self._marks)\n",
        "        await self._state.apply((), watermark)\n"
        "        due = await self._state.apply(effects, {}, self._endpoints, self._marks)\n",
    ),
    _one(
        "a webhook is answered before it is in the log",
        "flow/ingest.py",
        "        await self._journal.append(records)\n"
        "        await self._state.accept([accepted_status(delivery) for delivery in deliveries])\n",
        "        await self._state.accept([accepted_status(delivery) for delivery in deliveries])\n"
        "        import asyncio\n"
        "        self._appending = asyncio.ensure_future(self._journal.append(records))\n",
    ),
    _one(
        "a webhook is answered although its append failed",
        "flow/ingest.py",
        "        await self._journal.append(records)\n",
        "        from contextlib import suppress\n"
        "        from howk.domain.errors import Transient\n"
        "        with suppress(Transient):\n"
        "            await self._journal.append(records)\n",
    ),
    _one(
        "a lease is released before its delivery is in the log",
        "flow/schedule.py",
        "            await self._journal.append(records)\n"
        "            self._meter.count(SLOW_LANE, sum([record.stream == SLOW for record in records]))\n"
        "            await self._state.release(due)\n",
        "            await self._state.release(due)\n"
        "            await self._journal.append(records)\n"
        "            self._meter.count(SLOW_LANE, sum([record.stream == SLOW for record in records]))\n",
    ),
    # What waits
    _one(
        "what the gate holds back is finished without an outcome",
        "flow/deliver.py",
        "                plan.over.append((job, self._held(job, held_by)))\n",
        "                plan.over.append((job, None))\n",
    ),
    _one(
        "what has waited for its place in vain is dropped",
        "flow/deliver.py",
        "        for job in overdue:\n            self._leave(job, self._held(job, LIMIT))\n",
        "        for job in overdue:\n            self._leave(job, None)\n",
    ),
    _one(
        "what waits is given back as finished at a stop",
        "flow/attempt.py",
        "        self.emit(Emission(self.entry, (), finished=False))\n",
        "        self.emit(Emission(self.entry, ()))\n",
    ),
    _one(
        "the row of what is held is not written to the log",
        "flow/settle.py",
        "        records.append(journal.waits(moved.waiting))\n        return records\n",
        "        if not moved.waiting.held_by:\n"
        "            records.append(journal.waits(moved.waiting))\n"
        "        return records\n",
    ),
    _one(
        "a delivery with a time ahead is due at once",
        "domain/delivery.py",
        "        due_at=max(delivery.not_before, result.at),\n",
        "        due_at=result.at,\n",
    ),
    _one(
        "a rebuild forgets what the endpoints' rows in the log say",
        "flow/reconcile.py",
        "                rows.append(_read_endpoint(entry.value))\n",
        "                _read_endpoint(entry.value)\n",
    ),
    # Attempts
    _one(
        "a retry is made of what was sent before and not of the original",
        "domain/delivery.py",
        "            admitted=False,\n            probe=0,\n            previous=Previous(",
        "            admitted=False,\n            probe=0,\n"
        "            payload=delivery.payload\n"
        "            if delivery.payload_base64\n"
        "            else type(delivery.payload)(b'[' + bytes(delivery.payload) + b']'),\n"
        "            previous=Previous(",
    ),
    _one(
        "a retry has an id of its own",
        "flow/attempt.py",
        "            webhook_id=target.id,\n",
        '            webhook_id=target.id if delivery.attempt == 1 else f"{target.id[:-1]}{delivery.attempt}",\n',
    ),
    _one(
        "one attempt more is made than was asked for",
        "domain/delivery.py",
        '    return "exhausted" if result.attempt >= result.max_attempts else ""\n',
        '    return "exhausted" if result.attempt > result.max_attempts else ""\n',
    ),
    _one(
        "a hold uses an attempt up",
        "domain/delivery.py",
        "        delivery=replace(delivery, gen=result.gen + 1, admitted=False, probe=0),\n",
        "        delivery=replace(\n"
        "            delivery, gen=result.gen + 1, attempt=result.attempt + 1, admitted=False, probe=0\n"
        "        ),\n",
    ),
    _one(
        "a retry is due before its delay is over",
        "domain/delivery.py",
        "        due_at=due,\n        last_attempt_at=result.at,\n",
        "        due_at=result.at,\n        last_attempt_at=result.at,\n",
    ),
    # Ends
    _one(
        "an outcome of a gen that is over is applied",
        "domain/delivery.py",
        "    if success or gen == standing.gen:\n",
        "    if success or gen <= standing.gen:\n",
        storm="repeats",
    ),
    _one(
        "a success of a gen that is over does not end a delivery",
        "domain/delivery.py",
        "    if success or gen == standing.gen:\n",
        "    if gen == standing.gen:\n",
        storm="repeats",
    ),
    _one(
        "a delivery that has ended may end again",
        "domain/delivery.py",
        "    if standing.ended or series != standing.series:\n",
        "    if series != standing.series:\n",
        storm="repeats",
    ),
    _one(
        "a dead delivery is not written to the dead letters",
        "flow/settle.py",
        "    if moved.dead is not None:\n        records.append(journal.dead(moved.dead))\n    elif ",
        "    if moved.dead is None and ",
    ),
    _one(
        "the row of a delivery that has ended stays in the log",
        "flow/settle.py",
        "records.append(journal.waits_no_more(moved.status.id))\n",
        "pass\n",
    ),
    _one(
        "a rebuild ignores what was delivered",
        "flow/reconcile.py",
        "        await rebuild.restore([Effect(move(result, self._rules.retry).status) for result in fresh])\n",
        "        await rebuild.restore([Effect(move(result, self._rules.retry).status) for result in fresh[:0]])\n",
    ),
    _one(
        "a damaged record is finished in silence",
        "flow/deliver.py",
        "            self._end_unreadable(entry, error, emit)\n",
        "            emit(Emission(entry, ()))\n",
        storm="damage",
    ),
    # Keys
    _one(
        "a key is confirmed before its delivery is in the log",
        "flow/keyed.py",
        '                end = "unknown"\n                await self._append(scope, made, now)\n',
        "                early = [one for one, _ in made if one.item.key is not None]\n"
        "                await self._state.accept((), [\n"
        '                    KeyEnd(scoped(scope, one.item.key or ""), one.item.body, one.id, now) for one in early\n'
        "                ])\n"
        '                end = "unknown"\n                await self._append(scope, made, now)\n',
    ),
    _one(
        "a key is written after its delivery and not with it",
        "flow/keyed.py",
        "        await self._journal.append([*deliveries, *(journal.kept(record) for record in keys)])\n",
        "        await self._journal.append(deliveries)\n"
        "        if keys:\n"
        "            await self._journal.append([journal.kept(record) for record in keys])\n",
    ),
    _one(
        "a key is free again although its append may have happened",
        "flow/keyed.py",
        '                end = "unknown"\n',
        '                end = "void"\n',
    ),
    _one(
        "a claim of a key whose end could not be told is never let go",
        "flow/keyed.py",
        "                self._owed += ends\n",
        "                pass\n",
    ),
    # Order
    _one(
        "a delivery leaves its turn at its first retry",
        "flow/projection.py",
        "    return replace(effect, record=encode(delivery), turn=turn_of(delivery), rank=delivery.rank)\n",
        "    return replace(effect, record=encode(delivery))\n",
    ),
    _one(
        "a turn is given to a later rank",
        "flow/deliver.py",
        '            elif verdict == "wait":\n                plan.turning.append(job)\n',
        '            elif verdict == "wait":\n                plan.going.append(_Going(job, 0.0))\n',
    ),
    _one(
        "what has an ordering key goes before hot state knows every turn",
        "flow/deliver.py",
        "        self._turns_open = False\n",
        "        self._turns_open = True\n",
    ),
    # Rebuilds
    _one(
        "a rebuild takes a success for the end of what settle had ended before",
        "flow/reconcile.py",
        "        fresh += [result for result in results if result.settled]\n",
        "",
        storm="repeats",
    ),
    # Endpoints
    _one(
        "an open breaker lets everything through",
        "domain/admission.py",
        '    if held_by:\n        return Admission("hold", held_by)\n',
        '    if held_by and held_by != BREAKER:\n        return Admission("hold", held_by)\n',
    ),
    _one(
        "an endpoint that is tried out gets more than one probe at a time",
        "domain/admission.py",
        "        if not behind and not probing and probe_due(circuit, now):\n",
        "        if not behind and probe_due(circuit, now):\n",
    ),
    _one(
        "holds are let go beyond what their endpoint takes",
        "domain/admission.py",
        "    free = max(0, int(share.most) - out)\n",
        "    free = 500\n",
    ),
    _one(
        "an endpoint is called more often at once than its sender allows",
        "domain/pacing.py",
        "        if 0 < cap < ceiling:\n            ceiling = cap\n",
        "",
    ),
    # Marks
    _one(
        "a mark is lost when hot state is rebuilt",
        "flow/reconcile.py",
        "    return [entry.key.removeprefix(journal.MARK) for entry in batch if entry.key.startswith(journal.MARK)]\n",
        "    return []\n",
        storm="cancels",
    ),
    _one(
        "a mark is lost where settle was killed between the log and hot state",
        "flow/reconcile.py",
        "        await self._state.apply((), {}, (), _marked(batch))\n",
        "        pass\n",
        storm="cancels",
    ),
    _one(
        "a mark is not written to the log",
        "flow/settle.py",
        "        records.append(journal.marks(decided.mark))\n",
        "        pass\n",
        storm="cancels",
    ),
)
