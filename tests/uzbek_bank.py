"""A bank of varied Uzbek rows from a seeded grammar, and a server that gives them out as GPT-4o would, with faults.

What it says is grammatical and means little; nothing of it ships or is trained on but in tests. Of every so many rows
one is planted to be refused, each kind at a known rate, and is marked so that a test can tell what became of it:

    with OpenAIServer(Bank(seed=1, planted={"refusal": 0.02}).answer) as server: …
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from openai_server import Request

from tasks_uz.text import convert


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


NAMES = listed("""
    Aziza Bekzod Charos Davron Eldor Feruza Gavhar Hilola Islom Jamshid Kamola Lola Madina Nargiza
    Oydin Parviz Qodir Ravshan Sevara Temur Umida Vali Xurshid Yulduz Zafar Anora Botir Dilnoza
    Elyor Farrux Gulnora Husan Iroda Jasur Komil Laylo Mansur Nodira Olim Pokiza Rustam Saida Tohir
    Umid Xosiyat Yusuf Zilola Asad Barno Doniyor
""")
PLACES = listed("""
    Andijon Buxoro Chust Denov Fargʻona Gʻijduvon Guliston Hazorasp Jizzax Kattaqoʻrgʻon Kitob
    Margʻilon Namangan Navoiy Nukus Oltiariq Parkent Qarshi Qoʻqon Rishton Samarqand Shahrisabz
    Termiz Toshkent Urganch Urgut Vobkent Xiva Yangiyer Zomin Boysun Chirchiq Angren Bekobod Asaka
    Shofirkon Koson Sherobod Pop Zarafshon
""")
THINGS = listed("""
    kitob daftar koʻzgu gilam piyola choynak mashina velosiped telefon chiroq eshik deraza stol stul
    shkaf qozon pichoq arqon savat sandiq doʻppi chopon roʻmol etik soat rasm xarita ruchka qalam
    sumka arava qayiq koʻprik quduq bogʻ hovli tandir oʻchoq supurgi bolgʻa arra omoch ketmon
    belkurak elak toʻqmoq charx dutor doira nay gʻijjak kamon nayza qalqon tanga yuzuk bilaguzuk
    sirgʻa taroq sochiq sovun parda koʻrpa yostiq beshik oʻyinchoq koptok varrak shaxmat narvon
    tarozi sim quvur nasos generator printer monitor klaviatura kamera kompas durbin teleskop
    termometr probirka gʻisht sement taxta oyna boʻyoq choʻtka mix randa egov
""")
FOODS = listed("""
    palov somsa lagʻmon manti norin shoʻrva mastava chuchvara halim sumalak nishalda holva novvot
    qovun tarvuz uzum anor anjir behi oʻrik shaftoli olma nok gilos olcha tut yongʻoq bodom pista
    mayiz turshak qatiq qaymoq suzma qurut non patir kulcha choy sharbat murabbo asal
""")
TRADES = listed("""
    kulol duradgor zargar novvoy bogʻbon choʻpon shifokor muallim haydovchi muhandis dasturchi
    rassom bastakor tikuvchi sartarosh oshpaz sotuvchi jurnalist tarjimon arxitektor uchuvchi
    dengizchi geolog biolog kimyogar tarixchi kutubxonachi huquqshunos hisobchi elektrik chilangar
    paxtakor asalarichi baliqchi ovchi temirchi koʻnchi naqqosh suratkash rejissyor
""")
ADJECTIVES = listed("""
    katta kichik yangi eski baland past uzun qisqa keng tor ogʻir yengil issiq sovuq shirin achchiq
    yumshoq qattiq chiroyli oddiy murakkab qimmat arzon tez sekin yorugʻ qorongʻi toza iflos quruq
    nam kuchli zaif boy qadimiy zamonaviy nodir mashhur foydali zararli xavfsiz sokin shovqinli
    rangli silliq gʻadir-budur shaffof mustahkam moʻrt yaltiroq
""")
SEASONS = listed("""
    bahorda yozda kuzda qishda tongda tushda oqshomda tunda bayramda taʼtilda yigʻimda sayohatda
""")
ABSTRACT = listed("""
    doʻstlik mehnat sabr vatan tinchlik bilim ilm odob mehr saxovat halollik jasorat umid orzu vaqt
    salomatlik oila mahalla tabiat suv havo tuproq quyosh yulduz yomgʻir shamol qor daryo togʻ choʻl
    dengiz oʻrmon til adabiyot musiqa teatr kino sport savdo qishloq shahar maktab tarix texnika
    internet energiya iqlim iqtisod qonun
""")
NUMBERS = listed("""
    ikki uch toʻrt besh olti yetti sakkiz toʻqqiz yigirma oʻttiz qirq
""")

REQUESTS = [
    "{adj} {thing} haqida {abs} bilan bogʻlab {n} gapli hikoya yozing",
    "{place} shahridagi {trade}ning bir kunini {season} tasvirlab bering",
    "Menga {food} tayyorlashni {name} opadan soʻragandek, {adj} uslubda tushuntiring",
    "{abs} mavzusida {trade}larga moʻljallangan {n} ta savol tuzib chiqing",
    "{name} {season} {place} bozoridan {thing} va {food} oldi, u necha soʻm sarflaganini hisoblang",
    "Quyidagi matndan {thing}, {food} va {trade} nomlarini ajratib, jadval qiling",
    "{adj} {thing} bilan {adj2} {thing2}ning {n} ta farqini sanab oʻting",
    "“{abs} va {abs2}” sarlavhali maqolaga {adj} kirish qismini yozib bera olasizmi?",
    "{place}dan {place2}gacha {season} qanday borish qulayligini {trade}ga maslahat bering",
    "{name} bilan {name2}ning {thing} ustidagi bahsini suhbat tarzida davom ettiring",
    "{trade} kasbini tanlagan {name}ga {abs} haqida {n} jumlali tabrik yuboring",
    "Nega {season} {food} koʻproq yeyiladi, {abs} bunga qanday taʼsir qiladi?",
    "{adj} {food} retseptini {name} buvining tilidan {n} bosqichda aytib bering",
    "Sinfdoshlarimga {abs2} haqida gapirmoqchiman, {thing} misolida {n} daqiqalik reja kerak",
    "{place} muzeyidagi {adj} {thing}ni sayyohlarga {n} gapda tanishtiring",
    "Berilgan xatni {trade} nomidan {adj} va rasmiy ohangda qayta yozing",
    "{thing}, {thing2}, {food} va {abs} soʻzlari qatnashgan sheʼr toʻqing",
    "{name2} {thing}ini yoʻqotib qoʻydi, {place} eʼlonlar taxtasi uchun xabar tayyorlang",
    "Bolalarga {adj2} {thing2} qanday ishlashini {season} kuzatilgan misolda anglatib bering",
    "{abs} toʻgʻrisidagi maqolni topib, {trade} hayotidan {adj} misol keltiring",
    "{n} kishilik mehmondorchilikka {food} va boshqa taomlardan {season} dasturxon rejasini tuzing",
    "Ushbu gaplarni oʻqib, {thing} haqidagisi {adj} yoki {adj2} ohangda ekanini belgilang",
    "{place2}dagi {trade}lar uchun {abs} boʻyicha toʻgarak nomlari va shiorlarini oʻylab toping",
    "{name} {thing} sotmoqchi, {adj} va ishonarli eʼlon matnini {n} gapda yozing",
    "Fizika darsida {thing2} bilan {season} oʻtkazilgan tajribaning xulosasini chiqaring",
    "{adj2} {abs} haqida fikringizni {name2}ga maktub shaklida bayon eting",
    "Matndagi asosiy fikrni {trade} tushunadigan qilib {n} soʻzda ayting",
    "{thing} soʻzining maʼnosini, sinonimini va {place} shevasidagi shaklini izohlang",
    "{food} bilan {thing} oʻrtasida oʻtgan kulgili suhbatni {season} voqeasi sifatida yozing",
    "{name} {place}ga koʻchib bordi: qoʻshnilar bilan {abs} haqida nima deyishini maslahat qiling",
]
SETTINGS = [
    "{name3} {season2} {place3}da {adj3} {thing3} koʻrib qoldi",
    "{place3}lik {trade2} {name3} {food2} va {thing3} haqida gapirib yuribdi",
    "Uyda {adj3} {thing3}, {food2} hamda {thing4} bor",
    "{abs3}ni yaxshi koʻradigan {name4} {season2} bizga {food2} olib keldi",
    "{trade2} bobom {thing4}ni {adj3} joyda, {thing3} yonida saqlaydi",
    "{name3}, {name4} va men {place3}ga {n2} kunga ketyapmiz",
    "Kutubxonadan {abs3}, {thing4} va {food2} toʻgʻrisidagi {n2} kitobni oldim",
    "{season2} {place3} koʻchalarida {adj3} {thing4} sotayotgan {trade2}ni uchratdim",
    "{name4}ning {n2} yashar ukasi {thing3}dan {adj3} narsa yasamoqchi",
    "Toʻgarakda {abs3} ustida ishlayapmiz, {name3} {thing4} keltirdi",
    "{food2}ni {adj3} idishga solib, {name4}ga {thing3} bilan birga joʻnatdim",
    "Bugun {trade2}lar bayrami, {place3}da {abs3} haqida {n2} maʼruza boʻladi",
]
INPUTS = [
    "{name} {season} {place}ga bordi. U yerda {adj} {thing} va {food} oldi. {trade} unga {abs} haqida soʻzlab berdi.",
    "{place}dagi {trade} {name2} {n} yildan beri {thing} yasaydi. Uning {adj} buyumlari {place2}da ham mashhur.",
    "Kecha {season} {place2}da {abs} haftaligi boshlandi. {name} va {name2} {adj} {thing2} keltirishdi.",
    "{adj} {food} uchun avval {thing} olinadi. Soʻng {name} aytganidek, {n} daqiqa kutiladi. {abs} shuni talab qiladi.",
]
ANSWERS = [
    "{name} {place}da yashaydigan {trade} edi. U {season} {adj} {thing} yasab, uni {name2}ga sovgʻa qildi.",
    "{abs} inson uchun {adj} boylikdir. {trade} buni {season} {thing} ustida ishlaganda yaxshi biladi.",
    "Avval {thing} tayyorlanadi, keyin {food} qoʻshiladi. {n} daqiqadan soʻng {adj} natija koʻrinadi.",
    "{place}dan {place2}gacha yoʻl {adj} va {adj2}. {name} yoʻlda {food} yedi, {thing}ini ehtiyot qildi.",
    "{thing} {adj}, {thing2} esa {adj2} boʻladi. {trade} {season} ikkalasidan ham foydalanadi.",
    "{name2} doʻstiga shunday dedi: {abs} boʻlmasa, {thing} ham {adj2} koʻrinmaydi. {name} bunga qoʻshildi.",
    "{food} {season} ayniqsa yoqimli. {place} ahli uni {adj} idishda, {thing} yonida tortadi.",
    "{trade}ga {n} ta maslahat: {thing}ni asrang, {abs}ni unutmang, {place2}ga {season} boring.",
]
SHORT = [
    "{adj} {thing}",
    "{place}, {season}",
    "{n} ta {thing2}",
    "{trade} {name}",
    "{food} va {thing}",
    "{abs}, {adj2}",
]

REFUSALS = [
    "Kechirasiz, men bu soʻrovni bajara olmayman.",
    "Men sunʼiy intellekt modeli sifatida bunday savolga javob bera olmayman.",
    "Извините, но я не могу помочь с этой просьбой.",
    "I'm sorry, but I can't help with that request.",
]
RUSSIAN = [
    "В этом городе весной продают много фруктов, и мастера делают красивую посуду для гостей из разных стран.",
    "Учитель рассказал детям о дружбе и терпении, а потом они вместе написали письмо своим родителям.",
    "Сначала подготовьте все продукты, затем смешайте их и поставьте на огонь примерно на двадцать минут.",
]
PERSONAL = [
    "Murojaat uchun: +998 90 123 45 67.",
    "Xat yozing: aziza.karimova@example.uz",
    "Karta: 8600 1234 5678 9012.",
    "Pasporti AA1234567 raqamli.",
]
BROKEN = ["```python\nprint(1)", "**Muhim: shu gapni yodda tuting.", "<b>Diqqat bilan oʻqing.", "</div> Tamom."]
LEFT_OVER = ["### Response: javob shu yerda.", "[ism] hurmatli mijozimiz.", "Lorem ipsum dolor sit amet."]

PLANTED_EXACT = ("malformed", "cut", "refusal", "left_over", "markup", "personal_data", "schema")
PLANTED_BY_LIKENESS = (
    "duplicate",
    "near_duplicate",
    "near_output",
    "language",
    "alphabet",
    "mixed_letters",
    "copied",
    "contaminated",
)


def filled(pattern: str, chance: random.Random) -> str:
    """A pattern with words in its gaps."""
    lists = {"thing": THINGS, "food": FOODS, "trade": TRADES, "adj": ADJECTIVES, "season": SEASONS, "abs": ABSTRACT,
             "name": NAMES, "place": PLACES, "n": NUMBERS}  # fmt: skip
    values: dict[str, str] = {}
    for name, found in lists.items():
        for number, word in enumerate(chance.sample(found, 4), 1):
            values[f"{name}{number if number > 1 else ''}"] = word
    text = pattern.format(**values)
    return text[:1].upper() + text[1:]


@cache
def eval_texts() -> tuple[str, ...]:
    from tasks_uz import catalog
    from tasks_uz.data import ROOT, read_items

    topics = [item["text"] for item in read_items(ROOT / "uz_topic" / "items.jsonl")]
    assert catalog.tasks()
    return tuple(text for text in topics if len(text.split()) > 14)


@dataclass(frozen=True)
class Given:
    """A row that was given out. kind: "good", or what was planted. of: the good row that it is made like."""

    kind: str
    row: dict[str, str]
    alphabet: str
    of: Given | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.row["instruction"].strip(), self.row.get("output", "").strip()


@dataclass
class Bank:
    """Gives out rows. planted: kind to its share of all rows ("malformed": of all answers)."""

    seed: int = 1
    planted: Mapping[str, float] = field(default_factory=dict)
    given: list[Given] = field(default_factory=list)

    def row(self, chance: random.Random, cell: Mapping[str, str]) -> Given:
        """One row, good or planted."""
        kind, alphabet = self._kind(chance), cell["alphabet"]
        latin = self._good(chance, cell)
        row = {key: convert(text, alphabet) for key, text in latin.items()}
        # Only of what was given out before: a hundred requests may be under way.
        good = [each for each in self.given if each.kind == "good" and each.alphabet == alphabet]
        if kind == "near_output":
            good = [each for each in good if len(each.row["output"].split()) > 30]
        if kind in ("duplicate", "near_duplicate", "near_output") and len(good) < 20:
            return Given("good", row, alphabet)
        if kind in ("duplicate", "near_duplicate", "near_output"):
            of = chance.choice(good)
            key = "output" if kind == "near_output" else "instruction"
            words = of.row[key].split()
            if kind != "duplicate":
                words[chance.randrange(len(words) - 1)] = convert(chance.choice(THINGS), alphabet)
            return Given(kind, {**row, key: " ".join(words)}, alphabet, of)
        if kind == "language" and cell.get("type") == "translation":
            return Given("good", row, alphabet)  # Foreign words are what is asked for there.
        return Given(kind, self._spoilt(kind, row, latin, alphabet, chance), alphabet)

    def _spoilt(
        self, kind: str, row: dict[str, str], latin: dict[str, str], alphabet: str, chance: random.Random
    ) -> dict[str, str]:
        output = row["output"]
        if kind == "schema":
            return {"instruction": row["instruction"], "answer": output}
        if kind == "alphabet":
            other = "latin" if alphabet == "cyrillic" else "cyrillic"
            return {key: convert(text, other) for key, text in latin.items()}
        if kind == "contaminated":
            return {**row, "input": convert(chance.choice(eval_texts()), alphabet)}
        changed = {
            "good": output,
            "refusal": chance.choice(REFUSALS),
            "left_over": f"{chance.choice(LEFT_OVER)} {output}",
            "markup": f"{output} {chance.choice(BROKEN)}",
            "personal_data": f"{output} {chance.choice(PERSONAL)}",
            "language": chance.choice(RUSSIAN),
            "copied": row["instruction"],
            # One letter of the other alphabet, at the beginning of a word of this one.
            "mixed_letters": f"{output} {'Бoғча' if alphabet == 'cyrillic' else 'Аlbatta'} shu.",
        }
        return {**row, "output": changed[kind]}

    def _kind(self, chance: random.Random) -> str:
        drawn = chance.random()
        for kind, share in self.planted.items():
            if kind == "malformed":
                continue
            if drawn < share:
                return kind
            drawn -= share
        return "good"

    def _good(self, chance: random.Random, cell: Mapping[str, str]) -> dict[str, str]:
        """A row in the Latin alphabet."""
        told = [filled(pattern, chance) for pattern in chance.sample(SETTINGS, 2)]
        asked = ". ".join([*told, filled(chance.choice(REQUESTS), chance)])
        instruction = asked if asked.endswith("?") else f"{asked}."
        given = " ".join(filled(each, chance) for each in chance.sample(INPUTS, 3)) if chance.random() < 0.45 else ""
        n = {"short": 0, "medium": chance.randint(2, 5), "long": chance.randint(8, 14)}[cell["length"]]
        output = " ".join(filled(chance.choice(ANSWERS), chance) for _ in range(n))
        return {
            "instruction": instruction,
            "input": given,
            "output": output or f"{filled(chance.choice(SHORT), chance)}.",
        }

    def answer(self, request: Request) -> str:
        """What the server says to a request of `uzbench generate`."""
        text = request["messages"][1]["content"]
        asked = dict(re.findall(r"^(Kind|Script[^:]*|Length[^:]*): (.*)$", text, re.MULTILINE))
        found = re.search(r"Now write (\d+) new tasks", text)
        assert found is not None
        cell = {
            "type": asked["Kind"],
            "alphabet": "cyrillic" if "Cyrillic" in asked["Script of instruction, input and answer"] else "latin",
            "length": {"u": "short", "2": "medium", "8": "long"}[asked["Length of the answer"][0]],
        }
        chance = random.Random(f"{self.seed}:{text}")
        rows = [self.row(chance, cell) for _ in range(int(found[1]))]
        if chance.random() < self.planted.get("malformed", 0.0):
            self.given += [Given("malformed", each.row, each.alphabet) for each in rows]
            return f"Albatta! Mana vazifalar:\n1) {rows[0].row}"
        self.given += rows
        return json.dumps({"tasks": [each.row for each in rows]}, ensure_ascii=False)
