"""The closed vocabulary that tasks are made of."""

NOUNS = tuple(
    """apple bird boat book bread bridge bus cake candle car castle cat chair cloud coat coin corn
    crow cup desk dog door dress drum duck egg farm fish flag flower forest fork fox frog garden
    gate ghost glass glove goat gold grape grass guitar hammer hat hill horse house ice island jar
    jacket key king kite knife ladder lake lamp leaf lemon letter lion map market melon milk mirror
    moon mouse nail needle nest ocean olive onion orange oven owl paint palace paper peach pear
    pearl pencil piano pilot pizza planet plate pocket pony potato prince queen rabbit rain ribbon
    ring river road robot rock roof rope rose sail salt sand school sheep shell ship shirt shoe
    silver sister snake snow soap sock spoon spring star stone storm street sugar sun table tent
    tiger toast tower toy train tree truck tulip uncle valley violin wagon wall watch water whale
    wheel window wolf wood yard zebra""".split()
)
ADJECTIVES = tuple(
    """big blue bright brown busy clean cold dark deep dry empty fast fresh funny gray green happy
    heavy hot large little loud low new old pink quiet red round sad sharp short shy slow small
    soft strong sweet tall thin tiny warm white wide wild yellow young""".split()
)
VERBS = tuple(
    """watched found moved carried painted followed liked lost cleaned pushed touched covered
    opened remembered passed""".split()
)
PLACES = tuple("near behind above under beside".split())
NAMES = tuple(
    """Anna Ben Carl Diana Emma Felix Grace Henry Ivan Julia Kate Leo Maria Nina Oscar Paul Quinn
    Rosa Sam Tom Uma Vera Will Xena Yara Zoe Alice Bruno Clara David Elena Frank Gina Hugo Iris
    Jack Karl Laura Max Nora Otto Peter Rita Simon Tina Victor""".split()
)
CITIES = tuple(
    """Paris Rome Berlin Madrid Vienna Oslo Lisbon Dublin Prague Athens London Warsaw Cairo Tokyo
    Lima Delhi Boston Chicago Denver Sydney Geneva Milan Naples Hamburg""".split()
)
JOBS = tuple(
    "baker doctor teacher farmer lawyer singer driver nurse painter writer cook judge".split()
)
COLOURS = tuple("red blue green yellow black white brown pink orange purple".split())
FRUITS = tuple("apples pears plums lemons grapes melons peaches cherries figs olives".split())
MONTHS = tuple(
    """January February March April May June July August September October November
    December""".split()
)
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
