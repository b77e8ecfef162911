"""Words that may stand beside a number and leave it the value that it is: units, things that are counted, and the small
words of a sentence that states it.

The table is closed: a number beside any other word, such as one of a language that is not read, names nothing. Only a
plural in English behind a number needs no entry, since it is what is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdr_dspy.text.number_words import SHORT_NOUNS, SHORT_THINGS, UNITS, singular, words

_SENTENCE = words(
    """about  again already also altogether always another answer answered answering any approximately
    approx around available back been being both cases clearly combined correct could definitely each either
    enough equal equals equaling equalling even exact exactly final finally found from full further get given gives
    giving hence here however indeed itself just left let like made make makes making maximal maximum mean means
    mere merely minimal minimum namely need needed needs obtain obtained obtains only original other others overall own
    per positive possible precisely remain remaining remains required requires resulting result right roughly same
    simplified simply since single so some still such sum that the their them then there therefore these they this those
    thus together total totaling totalling totals true unique value was we were when where which who whole whose will
    with would year yes yield yields your circa average averaged have gets find finds computed calculated counting
    calculate amount amounts hereby surely certainly obviously actually answers numbers long tall wide deep high old
    apiece respectively everyone everybody everything someone anyone ours yours theirs very over"""
)
_DESCRIBED = words(
    """additional adult annual big black blue brown clean cold common complete composite consecutive correct cubic
    current daily dark decimal different digital distinct dry easy elderly empty entire equal equilateral even extra
    fast female  flat free fresh full good gray green grey  hard heavy hot identical integer
    integral isosceles large larger largest  leftover light little local long longer longest loose male
    many minor monthly mini natural  new nice nonzero normal obtuse odd old older oldest open orange
    ordered ordinary original pink plain plastic possible prime purple rational real rectangular red regular right
    rotten round  similar small smaller smallest solid spare special square straight sweet taller
    tallest thin tiny total triangular unique usual valid various white whole wooden yellow young younger youngest
    weekly yearly hourly golden silver silvery colored coloured"""
)
_COUNTED = words(
    """area audience bananas beds bread capacity cattle cents chance children cheese chicken chocolate cost count
    cameras data deer depth dice diameter discount distance edge energy equation feet fish food foot fruit furniture
    geese gain grade height increase income interest juice kilos koalas length lemonade llamas luggage material meat
    mice milk money number oxen pandas pay people percent perimeter person photo photos pianos piano pizza pizzas
    population potatoes price probability profit progress radius rate ratio revenue rice salary sale savings score
    sheep shrimp side soda sodas solution speed spend spread staff sugar tacos tax teeth temperature tip time
    tomatoes trout unit videos volume wage water weight wheat width women zebras worth zero age apple bag ball
    clock basket
    board book bottle box boy bus cake candy car card case chair city class coin color colour day dog dollar door
    dozen dress edge egg employee euro face family floor flower friend game garden gift girl glass group guest hour
    house item job kid kilometer letter line lot marble meal member mile minute month morning afternoon evening night
    office one orange order pack package page pair paper part party pen pencil penny pie piece plant plate player
    point pound present puppy kitten question quid restaurant room row school seat second section set shelf shirt shop
    store sock song star step stick stop street student table teacher team ticket today tomorrow tonight town toy
    train trip turn vertex vertices week weekend woman word work worker yesterday yard foot inch indices matrices
    axes lives loaves knives wolves elves  leaves wives thieves cacti fungi radii foci data criteria
    bacteria dimes nickels solutions integers digits factors primes divisors multiples radians radian steradian
    units home test tree road river lake station market trip park start end
    decimeter hectare hectares acre acres knots knot volt volts amp amps ampere amperes watt watts ohm ohms
    hertz joule joules newton newtons pascal pascals kelvin celsius fahrenheit mole moles byte bytes bit bits pixel
    pixels rupee rupees peso pesos franc francs krona kronor ruble rubles rouble roubles yuan renminbi dirham dirhams
    shekel shekels rand baht dong lira ringgit cedi naira pence penny bitcoin bitcoins"""
)
_DONE = words(
    """added baked bought broken brought built calls carried caught collected covered cut donated done drank drawn
    drove earned earns eaten filled finished gained gave given gone grew grown held kept killed known laid
    lived made moved named opened ordered paid painted picked placed planted played produced purchased raised ran read
    received returned saved saves scored sells sent served shared shown slept sold solved sorted spent spoken stayed
    stored studied taken thrown took travelled traveled used visited walked want wants wanted washed went wins won
    worked worn written costs contains contain holds hold includes include takes take weighs weigh uses use has had
    sees see pays pay buys buy eats eat sell owned owns lives live living charged"""
)
_OTHER_LANGUAGES = words(
    """euros euro meter metern stunden stunde minuten tage jahre jahren kilometer liter gramm kilogramm äpfel stück
    personen prozent grad mètres mètre heures heure jours jour ans années pommes personnes kilomètres litres grammes
    degrés metros horas hora minutos minuto días dia dias años anos manzanas personas kilómetros litros gramos grados
    metri ore giorni anni minuti persone mele chilometri litri grammi gradi
    км м см мм кг г л ч мин сек час часа часов минут минуты дней дня день лет год года человек рубль рубля рублей
    руб штук яблок яблока яблоко метр метра метров грн грамм
    godzin minut dni lat osób złotych zł metrów hodin dní let kč
    timmar timer dagar kronor år dagen uur dagen jaar meter personer
    個 个 人 名 本 枚 匹 頭 台 冊 回 度 円 元 块 年 月 日 天 号 時間 小时 小時 分钟 分鐘 秒 米 公里 千米 厘米 公斤
    千克 克 升 岁 歳 只 隻 条 條 张 張 次 种 種 つ 倍数 개 명 원 마리 권 번 시간 살 µm μm µs μs µg μg ω kω å"""
)
_DIRECTIONS = words("north south east west northeast northwest southeast southwest away")
"""Neutral behind what is measured (`12 km north`); `42 north` is a bearing or a coordinate."""
_PLACES = words("after before during inside outside near along across among onto into toward towards upon via")
_CODES = words("http https error errors errno code codes status exit port")
"""Neutral before a number, which they call by its name: `HTTP 404`, `exit code 1`."""
_OPEN = _PLACES | words(
    """from with per of for every since when where which who whose another any some such like about around either both
    could would will"""
)
"""Neutral with a word behind them (`$42 after tax`), or behind what is counted; `42 after` says something else."""
NEUTRAL = (
    frozenset(_SENTENCE | _DESCRIBED | _COUNTED | _DONE | _OTHER_LANGUAGES)
    | (_DIRECTIONS | _OPEN)
    | SHORT_NOUNS
    | frozenset(UNITS)
) - words("less")
"""Words that leave the number beside them its value."""
_THINGS = (
    _COUNTED | _DONE | _OTHER_LANGUAGES | SHORT_THINGS | frozenset(UNITS) | words("left remaining remain total")
) - words("in")
_ANGLES = words("deg degree degrees grad")

_NO_PLURAL = re.compile(
    r"(?:[aiou]s|ss|(?:north|east|south|west|out|in|on|for|back|down|up|to|after|home|sea|side|sky)wards"
    r"|ll?ones|aines|illi?[ae]rds|illiers|milhares|ezenas|entas|ortals|ens)$"
)
"""Endings of other words, among them directions in English, and factors in French, Spanish and Portuguese."""
_NOT_COUNTED = words(
    """owes loses lacks fails needless zeros zeroes losses debts deficits shortages refunds fives negatives
    opposites reciprocals inverses complements powers roots logs odds perhaps sometimes unless besides
    minus versus towards afterwards otherwise backwards downwards upwards downstairs upstairs eights
    nowadays thirds fourths quarters always sideways anyways indoors outdoors overseas does goes seems moins menos antes
    despues depuis apres sans sous hors vers dans mais puis tras abajo pas presque atras links rechts abseits aufwärts
    mindestens höchstens wenigstens bereits nachts meistens jenseits diesseits"""
)


def is_neutral(word: str, *, behind: bool) -> bool:
    """Whether a word in lower case leaves the number beside it its value; `behind` if it stands behind the number."""
    if word in _NOT_COUNTED:
        return False
    if word in _CODES and not behind:
        return True
    if word == "up":  # `up 5`; `5 & up` is more
        return not behind
    if word in NEUTRAL or singular(word) in NEUTRAL:
        return True
    return behind and _is_plural(word)


def is_unit_elsewhere(word: str) -> bool:
    """Whether a word in lower case is a unit, or what is counted, in another language that is read."""
    return word in _OTHER_LANGUAGES


def leave_its_value(found: Sequence[str], *, behind: bool, last: bool) -> bool:
    """Whether the neutral words on one side of a number leave it its value in their order.

    Args:
        found: the words in lower case.
        behind: whether they stand behind the number.
        last: whether no other number follows.
    """
    if not behind:
        return not found or found[-1] not in _DIRECTIONS | _PLACES
    thing = False
    for place, word in enumerate(found):
        if not thing and (word in _DIRECTIONS or (word in _OPEN and last and place + 1 == len(found))):
            return False
        thing = thing or _is_thing(word)
    return True


def _is_thing(word: str) -> bool:
    """Whether a word behind a number is what is counted, or its unit."""
    if word in _ANGLES or len(word) == 1:
        return word not in _ANGLES and word not in "ai"
    return word in _THINGS or singular(word) in _THINGS or (word not in NEUTRAL and _is_plural(word))


def _is_plural(word: str) -> bool:
    """Whether a word is a plural in English, and so what is counted."""
    if len(word) < 4 or not word.endswith("s") or not word.isascii():
        return False
    return _NO_PLURAL.search(word) is None
