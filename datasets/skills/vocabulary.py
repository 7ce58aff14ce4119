"""The words of `organism/text`: a few hundred, grouped by the part they play.

A word stands in one group only where a skill relies on it: values of a needle never occur in the filler, names never in
the values, so that the answer to a prompt is defined by the prompt alone.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    """
    mary john tom anna james emma paul lucy mark sara peter alice david julia simon laura henry clara
    frank nina oscar rosa leo ivy max eva hugo iris adam ruth carl maya
    """
)

VALUES = _words(
    """
    apple river stone candle mirror ladder bottle basket hammer ribbon tiger falcon otter salmon beetle
    spider rabbit turtle lemon pepper garlic butter honey almond cherry carrot violin trumpet piano
    guitar drum whistle anchor sail engine wheel saddle wagon rocket magnet prism lantern pillow blanket
    carpet curtain chimney window closet attic copper silver marble velvet cotton leather granite amber
    coral pearl thunder blizzard rainbow sunset shadow echo puzzle riddle novel poem sonnet letter
    ticket wallet jacket button zipper collar dragon wizard knight castle tower crown throne sword
    shield arrow comet planet meteor galaxy orbit island canyon desert glacier volcano meadow
    """
)

OBJECTS = _words(
    """
    ball cup book pen box hat shoe key lamp plate spoon fork bag coin clock brush towel ring chair vase
    """
)
COLORS = _words("red blue green yellow purple orange pink brown black white")
PLACES = _words("store park school beach office library museum station garden market church farm")
GIFTS = _words("drink gift flower cake map kite phone toy photo present snack card")

COUNTRY_FACTS = """
france paris french europe
spain madrid spanish europe
italy rome italian europe
germany berlin german europe
poland warsaw polish europe
norway oslo norwegian europe
sweden stockholm swedish europe
greece athens greek europe
turkey ankara turkish asia
russia moscow russian europe
japan tokyo japanese asia
china beijing chinese asia
india delhi hindi asia
korea seoul korean asia
thailand bangkok thai asia
vietnam hanoi vietnamese asia
iran tehran persian asia
iraq baghdad arabic asia
egypt cairo arabic africa
kenya nairobi swahili africa
ghana accra english africa
somalia mogadishu somali africa
cuba havana spanish america
peru lima spanish america
chile santiago spanish america
brazil brasilia portuguese america
canada ottawa english america
portugal lisbon portuguese europe
hungary budapest hungarian europe
finland helsinki finnish europe
denmark copenhagen danish europe
ireland dublin english europe
"""
_ROWS = [line.split() for line in COUNTRY_FACTS.strip().splitlines()]
RELATIONS = {
    "capital": {country: capital for country, capital, _, _ in _ROWS},
    "language": {country: language for country, _, language, _ in _ROWS},
    "continent": {country: continent for country, _, _, continent in _ROWS},
}
COUNTRIES = [row[0] for row in _ROWS]

FOODS = _words("bread rice soup cheese fish pasta salad pizza")
PETS = _words("dog cat horse parrot hamster goat duck pony")
JOBS = _words("doctor teacher baker pilot painter lawyer singer farmer")

ACTIONS = _words("build make buy sell use find hide move carry store open send")
HARMFUL = _words(
    """
    bomb weapon poison virus gun drug trap explosive missile grenade malware narcotic
    """
)
BENIGN = _words(
    """
    table cupboard soap camera radio medicine tent heater bicycle firework printer vitamin
    """
)
SETTINGS = [
    "at home",
    "at night",
    "in the city",
    "for a friend",
    "in a day",
    "with a tool",
    "on my own",
    "in the woods",
    "for the winter",
    "without help",
]

EVENTS = _words(
    """
    war trip project voyage siege reign drought festival strike tour campaign dynasty
    """
)
CENTURIES = _words("11 12 13 14 15 16 17 18")
NUMBERS = [f"{i:02d}" for i in range(100)]

ROLES = _words("king queen sailor hunter miner priest student soldier nurse judge cook guard")
ADJECTIVES = _words("old young tall quiet happy tired brave kind lonely clever")
DEEDS = _words("walked ran looked came returned travelled sailed hurried climbed wandered")
GROUNDS = _words("hill bridge harbor village forest valley road field lake mill")
TIMES = _words("morning evening summer spring autumn noon")

GLUE = _words(
    """
    the a of and to in on at is was for with from by i you can not that this me my how when then there
    here near what who question answer query user assistant please tell explain want help sorry sure . ,
    : ? ## code home food pet job color table document number went gave a had got been so much fun they
    decided said before while years year lasted def self param begin it people many live speak speaks
    known as now were give say every one again day story short will long night city friend tool own
    woods winter without
    """
)


def words() -> list[str]:
    """Return every word of the vocabulary once, in a fixed order."""
    groups = [
        GLUE, NAMES, VALUES, OBJECTS, COLORS, PLACES, GIFTS, COUNTRIES, *(list(r.values()) for r in RELATIONS.values()),
        list(RELATIONS), FOODS, PETS, JOBS, ACTIONS, HARMFUL, BENIGN, [w for s in SETTINGS for w in s.split()], EVENTS,
        NUMBERS, ROLES, ADJECTIVES, DEEDS, GROUNDS, TIMES,
    ]  # fmt: skip
    return list(dict.fromkeys(word for group in groups for word in group))
