"""Which words say that somebody is a man or a woman, and what captions say of the people in a photo.

The lists are of English words for people. They follow those of "Women also Snowboard", arXiv 1803.09797, with
the family and the words for children added that are frequent in captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAN = _words(
    """
    man men male males guy guys gentleman gentlemen boy boys father fathers dad dads daddy son sons
    brother brothers husband grandfather grandpa uncle nephew boyfriend groom he him his himself
    schoolboy schoolboys cowboy cowboys fisherman fishermen fireman firemen policeman policemen
    businessman businessmen waiter king prince
    """
)
"""Words for men and boys."""
WOMAN = _words(
    """
    woman women female females lady ladies girl girls mother mothers mom moms mommy mum daughter
    daughters sister sisters wife grandmother grandma aunt niece girlfriend bride she her hers herself
    schoolgirl schoolgirls cowgirl cowgirls fisherwoman policewoman businesswoman waitress ballerina
    actress queen princess
    """
)
"""Words for women and girls."""
NEUTRAL = _words(
    """
    person persons people child children kid kids toddler toddlers baby babies infant infants teen teens
    teenager teenagers adult adults someone somebody everyone human humans individual individuals couple
    family parent parents sibling siblings partner friend friends crowd they them their themselves
    player players rider riders skier skiers snowboarder snowboarders surfer surfers skateboarder
    skateboarders biker bikers bicyclist bicyclists cyclist cyclists climber climbers hiker hikers
    runner runners swimmer swimmers dancer dancers skater skaters officer officers firefighter
    firefighters fisher worker workers athlete athletes driver drivers passenger passengers spectator
    spectators pedestrian pedestrians performer performers musician musicians student students soldier
    soldiers cheerleader cheerleaders racer racers wakeboarder kayaker golfer
    """
)
"""Words for people that say neither."""

Said = Literal["man", "woman", "both", "person", "nobody"]
"""What a sentence says of the people in a photo."""
SAID: tuple[Said, ...] = ("man", "woman", "both", "person", "nobody")

_WORD = re.compile(r"[^\W\d_]+")


def kind_of(word: str) -> Said:
    """What one word says: ``man``, ``woman``, ``person`` or ``nobody``.

    >>> [kind_of(word) for word in ("Boys", "woman's", "skier,", "dog")]
    ['man', 'woman', 'person', 'nobody']
    """
    found = _WORD.findall(word.casefold())
    first = found[0] if found else ""
    for kind, words in (("man", MAN), ("woman", WOMAN), ("person", NEUTRAL)):
        if first in words:
            return kind  # type: ignore[return-value]
    return "nobody"


def says(sentence: str) -> Said:
    """What a sentence says of the people in it.

    >>> [says(text) for text in ("a man and his dog", "a boy and a girl", "a skier jumps", "two dogs")]
    ['man', 'both', 'person', 'nobody']
    """
    kinds = {kind_of(word) for word in sentence.split()}
    if {"man", "woman"} <= kinds:
        return "both"
    return next((kind for kind in SAID if kind in kinds), "nobody")


def agreed(references: Sequence[str]) -> Said:
    """What the references of a photo say together.

    A man or a woman where at least one reference says so and none says the other; a person where none says
    either and at least half of them name people.

    Source: Hendricks et al., "Women also Snowboard", arXiv 1803.09797, section 4, for men and women.

    >>> agreed(["a man jumps", "someone jumps"])
    'man'
    """
    found = [says(reference) for reference in references]
    if "both" in found or {"man", "woman"} <= set(found):
        return "both"
    for kind in ("man", "woman"):
        if kind in found:
            return kind
    return "person" if 2 * found.count("person") >= len(found) else "nobody"
