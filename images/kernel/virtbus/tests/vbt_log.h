/* SPDX-License-Identifier: GPL-2.0-only */
/* What happened when, for debugfs and for the console. */
#ifndef VBT_LOG_H
#define VBT_LOG_H

#include <linux/debugfs.h>
#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/moduleparam.h>
#include <linux/seq_file.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#define VBT_EVENTS 4096

struct vbt_event {
	u64 ns;
	char who[64];
	char what[24];
};

/* The oldest events give way to new ones; the number of each is kept. */
static struct vbt_event vbt_events[VBT_EVENTS];
static unsigned long vbt_event_count;
static DEFINE_SPINLOCK(vbt_event_lock);

static bool quiet;
module_param(quiet, bool, 0444);
MODULE_PARM_DESC(quiet, "Keep what happens out of the kernel's log");

static void vbt_log(const char *who, const char *what)
{
	struct vbt_event *event;
	u64 ns;

	spin_lock(&vbt_event_lock);
	ns = ktime_get_ns();
	event = &vbt_events[vbt_event_count++ % VBT_EVENTS];
	event->ns = ns;
	strscpy(event->who, who, sizeof(event->who));
	strscpy(event->what, what, sizeof(event->what));
	spin_unlock(&vbt_event_lock);
	if (!quiet)
		pr_info("vbt: %llu %s %s\n", ns, who, what);
}

static int vbt_log_show(struct seq_file *file, void *unused)
{
	unsigned long i, from;

	spin_lock(&vbt_event_lock);
	from = vbt_event_count - min_t(unsigned long, vbt_event_count, VBT_EVENTS);
	for (i = from; i < vbt_event_count; i++) {
		const struct vbt_event *event = &vbt_events[i % VBT_EVENTS];

		seq_printf(file, "%lu %llu %s %s\n", i, event->ns, event->who, event->what);
	}
	spin_unlock(&vbt_event_lock);
	return 0;
}

static int vbt_log_open(struct inode *inode, struct file *file)
{
	return single_open(file, vbt_log_show, NULL);
}

static ssize_t vbt_log_clear(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	spin_lock(&vbt_event_lock);
	vbt_event_count = 0;
	spin_unlock(&vbt_event_lock);
	return count;
}

static const struct file_operations vbt_log_fops = {
	.owner = THIS_MODULE,
	.open = vbt_log_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
	.write = vbt_log_clear,
};

/* A line of words that user space wrote, without its newline. Returns its length or an error. */
static ssize_t vbt_read_line(char *line, size_t size, const char __user *buf, size_t count)
{
	if (count >= size)
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = '\0';
	strim(line);
	return strlen(line);
}

/* A file that takes a line of words: ``action`` gets it and returns 0 or an error. */
#define VBT_COMMAND(name, action)							\
static ssize_t name##_write(struct file *file, const char __user *buf, size_t count,	\
			    loff_t *pos)						\
{											\
	char line[128];									\
	ssize_t ret = vbt_read_line(line, sizeof(line), buf, count);			\
											\
	if (ret >= 0)									\
		ret = action(line);							\
	return ret < 0 ? ret : count;							\
}											\
											\
static const struct file_operations name##_fops = {					\
	.owner = THIS_MODULE,								\
	.open = simple_open,								\
	.write = name##_write,								\
}

#endif /* VBT_LOG_H */
