"""The closed vocabulary that tasks are made of."""

NOUNS = tuple(
    """apple bird boat book bread bridge bus cake candle car castle cat chair cloud coat coin corn
    cup desk dog door drum duck egg farm fish flag flower forest fork fox frog garden gate ghost
    glass goat gold grape guitar hammer hat hill horse house ice island jar key king kite knife
    lake lamp leaf lemon letter lion map market milk mirror moon mouse nail needle nest ocean
    olive orange owl paint palace pear pencil piano pilot plate potato queen rabbit rain ring
    river road rock rope rose salt school ship shoe snake soap star street sun table tiger tower
    tree truck violin wagon water window wolf yard zebra""".split()
)
ADJECTIVES = tuple(
    """big blue brown clean cold dark dry empty fast green happy heavy hot little long new old
    quiet red round sad short slow small soft strong tall warm white young""".split()
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
