/** The document of `readonce demo`: the handbook of a workshop that does not exist. */
export const demoDocument = `
# Handbook of the Larkspur Bindery

## Who we are

The Larkspur Bindery repairs and binds books. It was founded on 9 March 1974 by Edith Quill, a bookbinder from Norwich, in a former bakery at 12 Tanner's Row in Wexcombe. The old bread oven still stands in the back room and is used to dry paper. Edith Quill retired in 2003, and her nephew Tobias Quill has been the director since then. Today the bindery employs fourteen people, two of them apprentices.

Most of our work comes from libraries. Our oldest customer is the county library of Wexcombe, which has sent us its parish registers since 1976. The largest order that we ever received was in 2011, when the Maritime Museum in Hull asked us to rebind 3,200 log books. It took us nearly four years.

## Working hours and holidays

The workshop is open from Monday to Friday. Work begins at 8.30 in the morning and ends at 5 in the afternoon, with a lunch break of forty-five minutes. On Fridays we stop work at 3 o'clock so that the floor can be cleaned.

Every employee has 27 days of paid holiday a year. Requests for holidays go to Miriam Okafor, who keeps the calendar, and should reach her at least three weeks in advance. The bindery is closed during the last week of August, because the glue supplier is closed then as well.

Anyone who is ill telephones the front desk before 9 o'clock. The number of the front desk is 01632 960 417. A doctor's note is needed from the fourth day.

## Safety

The guillotine is the most dangerous machine in the building. Only people who have passed the two-day course may use it, and nobody may use it alone. The key of the guillotine hangs in the director's office and is returned every evening. The last accident happened in 1998, when a visitor leaned on the paper press.

Leather dyes are kept in the yellow cabinet beside the stairs. Gloves must be worn when the cabinet is open. The first-aid box is on the wall of the kitchen, and Hannah Brandt is our first-aider. In case of fire everyone leaves by the yard door and gathers under the chestnut tree.

## How a book is repaired

Each book that arrives is photographed and given a blue card. The card names the owner, the damage and the price that was agreed. No work begins before the owner has signed the estimate. The pages are then cleaned with soft brushes, torn leaves are mended with Japanese paper, and the book is sewn on linen tapes. We use wheat paste for paper and animal glue for spines. Tobias Quill inspects every finished book himself, and he signs the blue card in green ink.

An ordinary repair takes six weeks and costs 85 pounds. A full leather binding costs 240 pounds and takes three months. Gold lettering is charged separately at 4 pounds a letter. Customers pay a third of the price in advance and the rest when they collect the book. Books that nobody collects are kept for two years and are then given to the school in Denham Lane.

## The paper store

Our paper is kept in the cellar, where the air is held at 18 degrees and a humidity of 50 percent. The cellar was flooded in November 2009, and about 400 sheets of handmade paper were lost. Since then nothing may stand on the floor, and a pump has been installed under the stairs. Japanese paper is bought from a mill in Kochi once a year. Marbled paper is made in our own workshop by Clara Whitlock, who learned the craft in Florence.

## Apprentices

An apprenticeship lasts three years. Apprentices spend the first six months sewing, and they may not touch leather before the second year. They attend the college in Ipswich every Wednesday. At the end each apprentice binds one book of their own choice, which is shown in the window of the shop. The best apprentice of the county receives the Silver Awl, a prize that three of our apprentices have won.

## Visitors

Visitors are welcome on the first Saturday of each month between 10 and 1 o'clock. A tour lasts one hour and costs nothing, but groups of more than eight people have to book by email. Children under ten must be accompanied by an adult. Photographs are allowed everywhere except in the room with the parish registers. Dogs have to wait in the yard, where the bakery's old water trough is filled for them every morning.
`.trim();

/** Questions of different kinds, each about another part of the document. */
export const demoQuestions: readonly string[] = [
  'When was the Larkspur Bindery founded?',
  'Where is Japanese paper bought from?',
  'Who is the first-aider?',
  'How much does a full leather binding cost?',
  'How long does an apprenticeship last?',
  'Quote the sentence that says where the key of the guillotine hangs.',
];
