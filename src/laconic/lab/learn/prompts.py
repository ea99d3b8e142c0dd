"""Questions that make a model think aloud, for traces of models without a problem set at hand. Nobody checks the answers."""

from __future__ import annotations

from laconic.problems import Problem

UNKNOWN = "unknown"
"""The reference answer of a question that has none here."""

PROMPTS = (
    "A bakery sells rolls at 3 for 2 euros and loaves at 4 euros each. Someone pays 26 euros for 12 rolls and some "
    "loaves. How many loaves were there?",
    "A train leaves at 9:40 and travels 210 km at 84 km/h, with one stop of 12 minutes. When does it arrive?",
    "The sum of three consecutive odd numbers is 201. Find them, and check the result.",
    "How many whole numbers from 1 to 1000 can be divided by 6 or by 10, but not by both?",
    "A rectangle is 5 cm longer than it is wide, and its area is 204 square centimetres. How long is its diagonal?",
    "Two dice are thrown. How probable is it that the larger number is exactly twice the smaller one?",
    "Find all real x with x^4 - 13x^2 + 36 = 0, and explain each step.",
    "A tank fills through one pipe in 6 hours and through another in 4, and drains through a third in 8. All three "
    "are open. How long does it take to fill?",
    "What is the remainder when 7^2025 is divided by 50?",
    "In how many ways can five people sit around a round table if two of them refuse to sit side by side?",
    "The price of a coat rises by 20 % and then falls by 25 %. It now costs 81 euros. What did it cost at first?",
    "Show that the product of four consecutive whole numbers, plus one, is always a square.",
    "A ladder of 6.5 m leans against a wall, its foot 2.5 m away. The foot slips by 0.8 m. How far does the top come "
    "down?",
    "How many squares of any size are there on a chessboard of 8 by 8 fields? Derive a formula for n by n.",
    "Write 1/3 + 1/7 - 2/5 as one fraction, then as a decimal number with four places.",
    "A farmer has hens and rabbits, 35 heads and 94 feet in all. How many of each? Solve it in two different ways.",
    "Which is larger, 2^100 or 3^63? Decide without a calculator.",
    "The average of five numbers is 18. Taking one of them away leaves an average of 16. Which number was taken away?",
    "A bag holds 4 red, 5 blue and 6 green balls. Three are drawn without looking. How probable is it that all have "
    "different colours?",
    "Find the area that the curves y = x^2 and y = 2x + 3 enclose.",
    "Three friends say: Anna: 'Ben lies.' Ben: 'Clara lies.' Clara: 'Anna and Ben both lie.' Who tells the truth?",
    "Five houses stand in a row, each of another colour. The green one is right of the white one, the red one is in "
    "the middle, the blue one is at an end, and the yellow one is not next to the blue one. Which colour is the first"
    " house?",
    "A man has to bring a wolf, a goat and a cabbage across a river in a boat that holds him and one of them. Work "
    "out the crossings.",
    "You have a 3-litre jug and a 5-litre jug. Measure exactly 4 litres, and say what each jug holds after every step.",
    "Twelve coins look alike, one of them is lighter. Find it with a pair of scales in as few weighings as possible, "
    "and prove that fewer do not suffice.",
    "On an island, knights always tell the truth and knaves always lie. You meet two people; one says: 'At least one "
    "of us is a knave.' What are they?",
    "A clock strikes once at one, twice at two and so on, and once at each half hour. How many strikes are there in a"
    " day?",
    "Four people have to cross a bridge at night with one torch. They need 1, 2, 5 and 10 minutes; at most two walk "
    "together. What is the shortest time?",
    "If it rains, the match is called off. The match was not called off. The fans went home early whenever it did not"
    " rain. What follows, and what does not?",
    "Each of three boxes is labelled wrongly: apples, oranges, both. You may take one fruit out of one box. How do "
    "you label all of them rightly?",
    "Write a Python function that tells whether a string of brackets ()[]{} is balanced, and go through it by hand "
    "for '([)]'.",
    "Explain how binary search works, and count the comparisons that it makes in a list of 1000 entries at most.",
    "A function is f(0) = 0, f(1) = 1, f(n) = f(n-1) + 2 f(n-2). Compute f(10), and look for a closed formula.",
    "Given a list of numbers, find the stretch of neighbours with the largest sum. Describe an algorithm that looks "
    "at each number once, and try it on 3, -5, 4, -1, 2, -6, 5.",
    "What does this print, and why? x = [1, 2, 3]; y = x; y.append(4); x = x + [5]; print(x, y)",
    "Design a data structure with insertion, deletion and the drawing of a random element, each in constant time. "
    "Argue that it works.",
    "Sort the list 8, 3, 7, 1, 9, 2 by merge sort, and write down every intermediate list.",
    "How would you find out whether a linked list contains a loop without using further memory? Prove that your way "
    "ends.",
    "A program takes 8 seconds for 1000 records and 32 seconds for 2000. How long will it take for 10000, and what "
    "does that suggest?",
    "Convert the number 2025 to binary, to hexadecimal and to base 7, and check one of them by converting back.",
    "Why does ice float on water, and what would be different in lakes if it did not?",
    "A ball is thrown straight up at 14 m/s. How high does it come, and when is it back? Take 9.8 m/s^2 for gravity.",
    "A pot of 2 kg of water is heated from 20 to 100 degrees by a stove of 1500 W that loses a quarter of its heat. "
    "How long does it take?",
    "Explain step by step why the sky is blue and the setting sun red.",
    "Two resistors of 6 and 12 ohms are connected in parallel, and a third of 4 ohms in series with them, to 12 V. "
    "What current flows through each?",
    "Estimate how many piano tuners work in a city of three million people. State every assumption.",
    "How much would it cost to light a street of 2 km with lamps every 40 m for a year? Choose sensible numbers and "
    "compute.",
    "A recipe for 4 people takes 300 g of flour, 180 ml of milk and 2 eggs. Adapt it to 7 people with whole eggs, and"
    " justify the rounding.",
    "Plan three days in a town you make up: a museum closed on Mondays, a market on Saturday mornings, a boat trip "
    "that needs half a day and good weather. Weigh two plans against each other.",
    "Someone wants to move 1800 books from one flat to another with a car that holds 12 boxes of 25 books, 20 minutes"
    " each way. Is an afternoon enough?",
    "A town wants fewer cars in its centre. Compare a toll, higher parking fees and free buses: who pays, who gains, "
    "what can go wrong?",
    "Is it better to repay a loan of 10,000 euros at 6 % a year early, or to save at 4 %? Compute both over five "
    "years.",
    "Compare two contracts: 15 euros a month and 10 cents a minute, or 30 euros a month and 4 cents a minute. From "
    "how many minutes on is the second cheaper?",
    "A survey finds that people who drink coffee live longer. List reasons why this does not show that coffee helps, "
    "and say which study would.",
    "A test finds a disease in 95 % of the ill and, wrongly, in 3 % of the healthy; 1 in 200 people is ill. How "
    "probable is illness after a positive test?",
    "Translate into a formula and solve: a mother is three times as old as her daughter; in 12 years she will be "
    "twice as old.",
    "Find the next two members of 2, 6, 12, 20, 30, and give two different rules that fit the beginning.",
    "Prove that the square root of 6 is irrational.",
    "A square of side 10 has a circle inside that touches all sides, and a square inside the circle. How large is the"
    " inner square's area? Generalise.",
    "In a tournament of 64 players every loser is out. How many games are played? Find an argument that needs no "
    "adding up.",
)


def general_problems(count: int) -> list[Problem]:
    """The first `count` of the prompts as problems; at most all of them."""
    return [Problem(f"prompt-{number + 1}", text, UNKNOWN) for number, text in enumerate(PROMPTS[:count])]
