"""Sentence frames with a temporary ambiguity, and the words that undo it.

Each line of a table is one frame, its fields separated by bars, with three subjects separated by slashes. Where a noun
phrase could be an object, it makes a likely one; where a participle could be a main verb, it makes a likely one.
"""

from __future__ import annotations

from typing import NamedTuple


class ObjectOrSubject(NamedTuple):
    """A frame of the kind *While the man ate the soup grew cold*.

    ``intransitive`` replaces ``verb`` and takes no object.
    """

    link: str
    subjects: tuple[str, ...]
    verb: str
    intransitive: str
    noun: str
    rest: str


class MainVerbOrRelative(NamedTuple):
    """A frame of the kind *The horse raced past the barn fell*.

    ``participle`` replaces ``verb`` and is no past form; ``be`` is *was* or *were*.
    """

    subjects: tuple[str, ...]
    be: str
    verb: str
    participle: str
    phrase: str
    rest: str


# link | subjects | ambiguous verb | intransitive verb | noun phrase | rest
OBJECT_OR_SUBJECT = """
while | the man / my uncle / the old woman | ate | slept | the soup | grew cold on the table
while | the boy / our guest / the girl | drank | slept | the milk | spilled on the floor
while | the king / our neighbor / the prince | hunted | waited | the deer | ran into the woods
while | the girl / my brother / the farmer | washed | smiled | the dog | barked at a stranger
as | the woman / my sister / the nurse | dressed | arrived | the baby | began to cry
while | the student / my father / the lady | read | slept | the book | fell from the shelf
while | the child / the artist / my cousin | drew | slept | the cat | lay on the floor
while | the woman / the sailor / my aunt | sang | slept | the song | came over the radio
after | the visitors / the men / our guests | left | arrived | the house | was full of flowers
while | my aunt / my mother / the maid | cooked | waited | the rice | began to burn
while | the maid / the old man / my cousin | cleaned | coughed | the kitchen | filled with smoke
while | the girl / my friend / the waiter | played | smiled | the guitar | fell off the chair
while | the man / our neighbor / my sister | drove | slept | the truck | made a strange noise
while | the lawyer / the poet / my aunt | wrote | slept | the letter | lay on the desk
while | the artist / the boy / my uncle | painted | waited | the horse | ran across the field
while | the woman / the tailor / my mother | sewed | slept | the dress | fell to the floor
while | my aunt / the old lady / our nurse | knitted | yawned | the scarf | slipped to the floor
while | the pilot / the captain / my father | studied | laughed | the map | blew out of the window
when | the soldiers / the enemy / the bandits | attacked | arrived | the city | was still asleep
when | the doctor / the priest / my aunt | visited | arrived | the child | was asleep in bed
while | the boys / my friends / the sailors | watched | laughed | the game | came to an end
as | the children / the tourists / the girls | followed | arrived | the band | marched down the street
after | the woman / the old man / my friend | paid | smiled | the waiter | brought some coffee
while | the waiter / the maid / my cousin | served | yawned | the guests | began to sing
as | the teacher / the old man / our priest | taught | yawned | the class | became very noisy
when | the mother / the teacher / my aunt | called | arrived | the children | came into the house
while | the boy / the painter / my brother | climbed | sneezed | the ladder | began to shake
while | the girl / the maid / my mother | swept | slept | the room | grew dark and cold
while | the man / my sister / the actor | packed | yawned | the suitcase | fell off the bed
while | my aunt / the cook / the old woman | baked | prayed | the pie | was eaten by a dog
while | the men / my cousins / the boys | fished | snored | the river | began to rise
while | the clerk / the secretary / my boss | typed | slept | the report | slid off the desk
while | the king / the young queen / the prince | ruled | slept | the country | lived in peace
while | our dog / the puppy / the old dog | chewed | snored | the bone | rolled under the couch
after | the man / the nurse / my sister | phoned | fainted | the doctor | came to the house
when | the woman / the stranger / the judge | entered | arrived | the room | became quiet at once
after | the boy / my friend / the girl | asked | arrived | the teacher | explained the rule
before | the judge / the widow / the mayor | answered | arrived | the lawyer | left the room
before | the boy / my cousin / our guest | finished | arrived | the cake | disappeared from the table
while | the clerk / the old man / the thief | counted | coughed | the coins | rolled off the table
while | the farmer / the boy / my uncle | plowed | waited | the field | turned white with snow
as | the actor / the girl / our teacher | practiced | arrived | the song | was heard on the radio
"""

# subjects | was or were | ambiguous participle | participle only | phrase | rest
MAIN_VERB_OR_RELATIVE = """
the girl / the nurse / the lawyer | was | handed | given | the letter | smiled at everyone
the woman / the singer / the old lady | was | brought | given | the flowers | thanked the man
the boy / the student / the sailor | was | sent | given | the money | bought a new bicycle
the soldier / the sailor / the widow | was | offered | given | the bread | was too tired to eat
the students / the girls / the boys | were | told | given | the answer | passed the test
the player / the boy / the girl | was | tossed | thrown | the ball | fell on the wet grass
the clerk / the farmer / the driver | was | paid | given | the money | ran out of the store
the child / the baby / the old man | was | fed | given | the soup | fell asleep at once
the man / the guest / the captain | was | served | given | the fish | became very sick
the lawyer / the judge / the doctor | was | mailed | shown | the report | called the police
the dog / the puppy / the old dog | was | tossed | thrown | the bone | ran behind the house
the children / the actors / the girls | were | taught | shown | the dance | laughed with joy
the farmer / the soldier / the cowboy | was | sold | given | the horse | rode away at noon
the girl / the actress / the widow | was | lent | given | the coat | thanked the nurse
the horse / the pony / the donkey | was | raced | ridden | past the barn | stopped at the river
the horse / the camel / the donkey | was | walked | ridden | through the village | belonged to a doctor
the ball / the stone / the bottle | was | rolled | thrown | across the floor | hit the wall
the boat / the raft / the log | was | floated | taken | down the river | was never seen again
the stone / the coin / the hammer | was | dropped | thrown | into the well | made a loud splash
the child / the girl / the boy | was | walked | driven | to the school | forgot a hat
the soldiers / the workers / the men | were | marched | driven | to the camp | were tired and hungry
the bear / the wolf / the lion | was | hunted | seen | in the forest | ran away at night
the men / the women / the families | were | moved | taken | to the island | built new houses
the ship / the boat / the raft | was | sailed | taken | around the island | needed a new flag
the woman / the widow / the pilot | was | rushed | driven | to the hospital | felt better by morning
the car / the truck / the wagon | was | parked | hidden | behind the church | belonged to the priest
the papers / the letters / the books | were | burned | thrown | in the fire | were very old
the plane / the sailor / the soldier | was | landed | seen | on the island | came from the north
the door / the back door / the window | was | opened | broken | at night | let in the rain
the milk / the rice / the soup | was | boiled | forgotten | on the stove | smelled very bad
the bread / the cake / the pie | was | baked | eaten | in the village | was always fresh
the shirt / the coat / the dress | was | dried | worn | in the garden | smelled of smoke
the men / the doctors / the hunters | were | called | chosen | from the village | arrived at noon
the troops / the sailors / the planes | were | landed | seen | on the beach | came from the south
the cows / the sheep / the horses | were | moved | driven | across the road | belonged to our neighbor
the truck / the car / the wagon | was | backed | driven | into the yard | was full of hay
the toys / the dolls / the books | were | dropped | forgotten | in the garden | were wet and dirty
the sailor / the captain / the boy | was | washed | thrown | onto the shore | was still alive
the bird / the rabbit / the fox | was | returned | taken | to the forest | lived for many years
the boy / the girl / the child | was | returned | driven | to the village | found a new friend
the children / the guests / the workers | were | crowded | driven | into the hall | began to sing
the water / the oil / the wine | was | poured | thrown | on the fire | made everyone cough
"""


def _rows(table: str) -> list[list[str]]:
    return [[field.strip() for field in line.split("|")] for line in table.strip().splitlines()]


def _subjects(field: str) -> tuple[str, ...]:
    return tuple(subject.strip() for subject in field.split("/"))


NP_Z = tuple(ObjectOrSubject(link, _subjects(subjects), *rest) for link, subjects, *rest in _rows(OBJECT_OR_SUBJECT))
MV_RR = tuple(MainVerbOrRelative(_subjects(subjects), *rest) for subjects, *rest in _rows(MAIN_VERB_OR_RELATIVE))
